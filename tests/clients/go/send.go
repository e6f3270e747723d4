// Sends numbered records with Go's fluent-logger-golang. See ../README.md for the command line.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
)

func main() {
	log.SetFlags(0)
	port := flag.Int("port", 0, "")
	tagPrefix := flag.String("tag-prefix", "", "")
	tags := flag.Int("tags", 1, "")
	count := flag.Int("count", 0, "")
	stream := flag.String("stream", "", "")
	mode := flag.String("mode", "message", "")
	ack := flag.Bool("ack", false, "")
	eventTime := flag.Bool("event-time", false, "")
	flag.Parse()
	if *mode != "message" && *mode != "json" {
		log.Fatalf("no such mode: %s", *mode)
	}
	network, host := "tcp", "127.0.0.1"
	if ca := os.Getenv("WEIR_TEST_CA"); ca != "" {
		// The library trusts whom the system trusts.
		os.Setenv("SSL_CERT_FILE", ca)
		network, host = "tls", "localhost"
	}

	logger, err := fluent.New(fluent.Config{
		FluentNetwork:      network,
		FluentHost:         host,
		FluentPort:         *port,
		TagPrefix:          *tagPrefix,
		RequestAck:         *ack,
		SubSecondPrecision: *eventTime,
		MarshalAsJSON:      *mode == "json",
	})
	if err != nil {
		log.Fatal(err)
	}
	for seq := 0; seq < *count; seq++ {
		record := map[string]interface{}{
			"stream":  *stream,
			"seq":     seq,
			"message": fmt.Sprintf("go event %d of %s", seq, *stream),
		}
		if err := logger.PostWithTime(strconv.Itoa(seq%*tags), time.Now(), record); err != nil {
			log.Fatalf("record %d: %v", seq, err)
		}
		// With acknowledgements it has come by now.
		if *ack && seq%100 == 99 {
			fmt.Printf("acknowledged %d\n", seq+1)
		}
	}
	if err := logger.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("sent %d\n", *count)
}
