module observer.test/plaintext

go 1.21
