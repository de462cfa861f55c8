// Command sdks prints the messages that the Go SDK makes of one event, a JSON line each.
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
	data := map[string]any{"bookingId": "b1", "sessionId": "s1", "numberOfAttendees": 2}
	asBytes, err := json.Marshal(data)
	check(err)
	out := json.NewEncoder(os.Stdout)
	for kind, given := range map[string]any{"object": data, "bytes": asBytes} {
		one := event.New()
		one.SetID("e1")
		one.SetSource("/devices/kiosk-7")
		one.SetType("attendance.check_in")
		one.SetTime(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
		check(one.SetData(event.ApplicationJSON, given))
		for mode, in := range map[string]func(context.Context) context.Context{
			"binary": binding.WithForceBinary, "structured": binding.WithForceStructured,
		} {
			made := &sarama.ProducerMessage{}
			check(kafka_sarama.WriteProducerMessage(in(context.Background()), binding.ToMessage(&one), made))
			value, err := made.Value.Encode()
			check(err)
			headers := [][2]string{}
			for _, each := range made.Headers {
				headers = append(headers, [2]string{string(each.Key), encode(each.Value)})
			}
			check(out.Encode(message{mode + " " + kind, headers, value}))
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
