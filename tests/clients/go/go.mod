module weir-test-client

// 1.9 is the newest that the Go of Debian 12 (1.19) can build.
go 1.19

require github.com/fluent/fluent-logger-golang v1.9.0

require (
	github.com/philhofer/fwd v1.1.1 // indirect
	github.com/tinylib/msgp v1.1.6 // indirect
)
