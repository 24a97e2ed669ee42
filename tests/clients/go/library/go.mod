module observer/clients/library

go 1.18
