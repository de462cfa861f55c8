// Command publish BOOKING SESSION structured|binary publishes a check-in that the CloudEvents SDK has made.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"log"
	"os"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
)

func main() {
	booking, session, mode := os.Args[1], os.Args[2], os.Args[3]
	checkIn := event.New()
	checkIn.SetID(rand.Text())
	checkIn.SetSource("/gates/north/kiosk-1")
	checkIn.SetType("attendance.check_in")
	checkIn.SetTime(time.Now())
	data := map[string]any{"bookingId": booking, "sessionId": session, "numberOfAttendees": 2}
	check(checkIn.SetData(event.ApplicationJSON, data))

	ctx := binding.WithForceStructured(context.Background())
	if mode == "binary" {
		ctx = binding.WithForceBinary(context.Background())
	}
	topic := cmp.Or(os.Getenv("KIOSK_TOPIC"), "attendance.events")
	message := &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(booking)}
	check(kafka_sarama.WriteProducerMessage(ctx, binding.ToMessage(&checkIn), message))

	config := sarama.NewConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	producer, err := sarama.NewSyncProducer([]string{cmp.Or(os.Getenv("KIOSK_BROKER"), "localhost:9092")}, config)
	check(err)
	_, _, err = producer.SendMessage(message)
	check(err)
	check(producer.Close())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
