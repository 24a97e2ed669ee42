module observer/clients/silent

go 1.18
