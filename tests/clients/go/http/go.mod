module observer/clients/http

go 1.18
