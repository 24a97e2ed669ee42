module observer/clients/contexts

go 1.21
