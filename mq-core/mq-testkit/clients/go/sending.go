package main

import (
	"context"
	"fmt"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Every way of sending, and that what arrives is what was sent.
var sending = []scenario{
	{"send-sync", sendSync},
	{"send-async", sendAsync},
	{"send-oneway", sendOneway},
	{"send-batch", sendBatch},
	{"send-delayed", sendDelayed},
	{"pull", pull},
}

func numbered(prefix string, count int) []string {
	var bodies []string
	for i := 0; i < count; i++ {
		bodies = append(bodies, fmt.Sprintf("%s-%d", prefix, i))
	}
	return bodies
}

func sendAll(s *stage, bodies []string) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	for _, body := range bodies {
		if err := isOk(from.SendSync(background(), s.message("tag", body))); err != nil {
			return err
		}
	}
	return nil
}

func sendSync(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	next := map[int]int64{}
	bodies := numbered("sync-消息", 20)
	for _, body := range bodies {
		message := s.message("tag", body)
		message.WithProperty("colour", "red")
		result, err := from.SendSync(background(), message)
		if err := isOk(result, err); err != nil {
			return err
		}
		queue := result.MessageQueue.QueueId
		if result.QueueOffset != next[queue] {
			return fmt.Errorf("offset in queue %d: expected %d, got %d", queue, next[queue], result.QueueOffset)
		}
		next[queue]++
	}
	read, err := s.reads("*")
	if err != nil {
		return err
	}
	if err := read.becomes(bodies...); err != nil {
		return err
	}
	for _, message := range read.messages {
		if message.GetProperty("colour") != "red" || message.GetTags() != "tag" || message.GetKeys() != "key-"+string(message.Body) {
			return fmt.Errorf("properties of %v", message)
		}
	}
	return nil
}

func sendAsync(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	bodies := numbered("async", 20)
	outcomes := make(chan error, len(bodies))
	for _, body := range bodies {
		done := func(_ context.Context, result *primitive.SendResult, err error) { outcomes <- isOk(result, err) }
		if err := from.SendAsync(background(), done, s.message("tag", body)); err != nil {
			return err
		}
	}
	for range bodies {
		if err := <-outcomes; err != nil {
			return err
		}
	}
	read, err := s.reads("*")
	if err != nil {
		return err
	}
	return read.becomes(bodies...)
}

func sendOneway(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	bodies := numbered("oneway", 10)
	// The first one makes the topic: a consumer of this client does not start without it.
	if err := isOk(from.SendSync(background(), s.message("tag", "first"))); err != nil {
		return err
	}
	for _, body := range bodies {
		if err := from.SendOneWay(background(), s.message("tag", body)); err != nil {
			return err
		}
	}
	read, err := s.reads("*")
	if err != nil {
		return err
	}
	return read.becomes(append(bodies, "first")...)
}

func sendBatch(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	bodies := numbered("batch", 30)
	var batch []*primitive.Message
	for _, body := range bodies {
		batch = append(batch, s.message("tag", body))
	}
	if err := isOk(from.SendSync(background(), batch...)); err != nil {
		return err
	}
	read, err := s.reads("*")
	if err != nil {
		return err
	}
	return read.becomes(bodies...)
}

func sendDelayed(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	if err := isOk(from.SendSync(background(), s.message("tag", "now"))); err != nil {
		return err
	}
	read, err := s.reads("*")
	if err != nil {
		return err
	}
	if err := read.becomes("now"); err != nil {
		return err
	}
	sent := time.Now()
	if err := isOk(from.SendSync(background(), s.message("tag", "later").WithDelayTimeLevel(2))); err != nil {
		return err
	}
	if err := read.becomes("now", "later"); err != nil {
		return err
	}
	if waited := time.Since(sent); waited < 1900*time.Millisecond {
		return fmt.Errorf("delivered %v after it was sent, with a delay of 2 s", waited)
	}
	return nil
}

func pull(s *stage) error {
	bodies := numbered("pull", 20)
	if err := sendAll(s, bodies); err != nil {
		return err
	}
	var puller rocketmq.PullConsumer
	started := onceRouted(func() (err error) {
		puller, err = s.puller()
		return err
	})
	if started != nil {
		return started
	}
	read, deadline := &seen{}, time.Now().Add(patience)
	for len(read.bodies()) < len(bodies) && time.Now().Before(deadline) {
		request, err := puller.Poll(background(), 5*time.Second)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, message := range request.GetMsgList() {
			read.note(nil, message)
		}
		puller.ACK(background(), request, consumer.ConsumeSuccess)
	}
	return read.becomes(bodies...)
}

func (s *stage) puller() (rocketmq.PullConsumer, error) {
	made, err := rocketmq.NewPullConsumer(
		consumer.WithNsResolver(s.names),
		consumer.WithGroupName(s.group("puller")),
		consumer.WithInstance(s.instance("puller")),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { _ = made.Shutdown() })
	if err := made.Subscribe(s.topic(), consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}); err != nil {
		return nil, err
	}
	return made, made.Start()
}
