// Command sdks prints the messages that the Go SDK makes of one event, a JSON line each.
// With BROKER TOPIC SESSION it publishes them by sarama, each of a booking that is named for its case.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
)

type message struct {
	Case    string      `json:"case"`
	Headers [][2]string `json:"headers"`
	Value   []byte      `json:"value"`
}

func main() {
	publishes := len(os.Args) > 1
	moment, session := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), "s1"
	var producer sarama.SyncProducer
	if publishes {
		moment, session = time.Now(), os.Args[3]
		config := sarama.NewConfig()
		config.Producer.Return.Successes = true
		config.Producer.RequiredAcks = sarama.WaitForAll
		var err error
		producer, err = sarama.NewSyncProducer(os.Args[1:2], config)
		check(err)
		defer producer.Close()
	}
	out := json.NewEncoder(os.Stdout)
	for _, kind := range []string{"object", "bytes"} {
		for mode, in := range map[string]func(context.Context) context.Context{
			"binary": binding.WithForceBinary, "structured": binding.WithForceStructured,
		} {
			name, booking := mode+" "+kind, "b1"
			if publishes {
				booking = "go " + name
			}
			var data any = map[string]any{"bookingId": booking, "sessionId": session, "numberOfAttendees": 2}
			if kind == "bytes" {
				asBytes, err := json.Marshal(data)
				check(err)
				data = asBytes
			}
			one := event.New()
			one.SetID("e1")
			one.SetSource("/devices/kiosk-7")
			one.SetType("attendance.check_in")
			one.SetTime(moment)
			check(one.SetData(event.ApplicationJSON, data))
			made := &sarama.ProducerMessage{}
			check(kafka_sarama.WriteProducerMessage(in(context.Background()), binding.ToMessage(&one), made))
			if publishes {
				made.Topic, made.Key = os.Args[2], sarama.StringEncoder(booking)
				_, _, err := producer.SendMessage(made)
				check(err)
				continue
			}
			value, err := made.Value.Encode()
			check(err)
			headers := [][2]string{}
			for _, each := range made.Headers {
				headers = append(headers, [2]string{string(each.Key), encode(each.Value)})
			}
			check(out.Encode(message{name, headers, value}))
		}
	}
}

func encode(value []byte) string {
	text, err := json.Marshal(value) // a []byte is base64 in JSON
	check(err)
	return string(text[1 : len(text)-1])
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
