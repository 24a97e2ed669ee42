module observer/clients/agents

go 1.21
