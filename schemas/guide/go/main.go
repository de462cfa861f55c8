// Command kiosk SPOOL_FOLDER publishes the scans of standard input to Kafka, also after hours without a broker.
//
// A line is `bookingId sessionId [numberOfAttendees]`. Each scan is a finished event in the spool folder before it is
// reported as taken, and stays there, unchanged, until Kafka has acknowledged it.
package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	brokers  = strings.Split(cmp.Or(os.Getenv("KIOSK_BROKER"), "localhost:9092"), ",")
	topic    = cmp.Or(os.Getenv("KIOSK_TOPIC"), "attendance.events")
	source   = cmp.Or(os.Getenv("KIOSK_SOURCE"), "/gates/north/kiosk-1")
	timeout  = seconds(cmp.Or(os.Getenv("KIOSK_TIMEOUT"), "60"))   // after which the client gives up, and the kiosk sends again
	maxPause = seconds(cmp.Or(os.Getenv("KIOSK_MAX_PAUSE"), "30")) // between two attempts
	errScan  = errors.New("not a scan")
)

const batch = 500

type object map[string]any

// take writes a scan to the spool as an event and returns its id.
func take(spool string, words []string) (string, error) {
	if len(words) != 2 && len(words) != 3 {
		return "", errScan
	}
	data := object{"bookingId": words[0], "sessionId": words[1]}
	if len(words) == 3 {
		number, err := strconv.Atoi(words[2])
		if err != nil {
			return "", errScan
		}
		data["numberOfAttendees"] = number
	}
	now, id := time.Now().UTC(), rand.Text()
	event := object{"specversion": "1.0", "id": id, "source": source, "type": "attendance.check_in", "data": data}
	event["time"] = now.Format("2006-01-02T15:04:05.000000Z")
	path := filepath.Join(spool, now.Format("20060102T150405.000000-")+id)
	if err := write(path+".tmp", event); err != nil {
		os.Remove(path + ".tmp")
		return "", err
	}
	if err := os.Rename(path+".tmp", path+".json"); err != nil {
		return "", err
	}
	folder, err := os.Open(spool)
	if err != nil {
		return "", err
	}
	defer folder.Close()
	return id, folder.Sync() // the new name is on the disk, too
}

func write(path string, event object) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := json.NewEncoder(file).Encode(event); err != nil {
		return err
	}
	return file.Sync()
}

// read returns the record of a spooled file, or nil; an unusable file is moved aside.
func read(path string) *kgo.Record {
	var event struct{ Data struct{ BookingID string } }
	value, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // another process on this spool has sent it
	}
	if err == nil {
		err = json.Unmarshal(value, &event)
	}
	if err != nil || event.Data.BookingID == "" {
		log.Printf("moved aside: %s: no event of a booking: %v", path, err)
		os.Rename(path, strings.TrimSuffix(path, ".json")+".bad")
		return nil
	}
	return &kgo.Record{Topic: topic, Key: []byte(event.Data.BookingID), Value: value}
}

// sendAll sends what is in the spool, oldest first, until the input has ended and the spool is empty.
func sendAll(client *kgo.Client, spool string, ended *atomic.Bool) {
	for pause := time.Second; ; {
		isLast := ended.Load() // asked first: no scan is added afterwards
		entries, err := os.ReadDir(spool)
		records, paths := []*kgo.Record{}, map[*kgo.Record]string{}
		for _, entry := range entries { // in the order of their names
			path := filepath.Join(spool, entry.Name())
			if !strings.HasSuffix(path, ".json") || len(records) == batch {
				continue
			}
			if record := read(path); record != nil {
				records, paths[record] = append(records, record), path
			}
		}
		results := client.ProduceSync(context.Background(), records...) // until each is acknowledged or has timed out
		for _, result := range results {
			if result.Err == nil {
				os.Remove(paths[result.Record])
			}
		}
		if err := cmp.Or(err, results.FirstErr()); err != nil {
			log.Print("not acknowledged: ", err)
			time.Sleep(min(pause, maxPause))
			pause *= 2
			continue
		}
		pause = time.Second
		if len(records) == 0 && isLast {
			return
		}
		if len(records) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func main() {
	spool := os.Args[1]
	if err := os.MkdirAll(spool, 0o755); err != nil {
		log.Fatal(err)
	}
	// acks=all and murmur2 are the defaults; a copy counts once, so the producer need not be idempotent
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordDeliveryTimeout(timeout), kgo.DisableIdempotentWrite())
	if err != nil {
		log.Fatal(err)
	}
	var ended atomic.Bool
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		sendAll(client, spool, &ended)
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if id, err := take(spool, strings.Fields(lines.Text())); err == errScan {
			log.Printf("not a scan: %q", lines.Text())
		} else if err != nil {
			log.Print("not taken: ", err)
		} else {
			fmt.Println("taken", id)
		}
	}
	ended.Store(true)
	<-sent
}

func seconds(text string) time.Duration {
	value, err := time.ParseDuration(text + "s")
	if err != nil {
		log.Fatal(err)
	}
	return value
}
