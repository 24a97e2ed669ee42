// Speaks no TLS, although it has a function of that name.
package main

import "fmt"

type Conn struct{ sent int }

//go:noinline
func (c *Conn) Write(bytes []byte) (int, error) {
	c.sent += len(bytes)
	return len(bytes), nil
}

//go:noinline
func (c *Conn) Read(bytes []byte) (int, error) {
	return copy(bytes, "crypto/tls.(*Conn).Read"), nil
}

func main() {
	connection := &Conn{}
	fmt.Fprint(connection, "crypto/tls.(*Conn).Write")
	fmt.Println(connection.sent)
}
