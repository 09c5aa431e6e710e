package main

import (
	"context"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// Only a bug waits for it.
const patience = 120 * time.Second

// stage is what a scenario stands on: names of its own, clients that are stopped at its end, and waiting.
type stage struct {
	names primitive.NsResolver
	name  string
	once  string
	stops []func()
}

func newStage(nameServer, name string) *stage {
	return &stage{
		names: primitive.NewPassthroughResolver([]string{nameServer}),
		name:  name,
		once:  strconv.FormatInt(time.Now().UnixNano(), 36),
	}
}

func (s *stage) close() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

func (s *stage) topic() string             { return "go_" + s.name + "_" + s.once }
func (s *stage) group(role string) string  { return "go_" + s.name + "_" + role + "_" + s.once }
func (s *stage) instance(of string) string { return fmt.Sprintf("%s-%s-%d", of, s.once, len(s.stops)) }

func (s *stage) producer() (rocketmq.Producer, error) {
	made, err := rocketmq.NewProducer(
		producer.WithNsResolver(s.names),
		producer.WithGroupName(s.group("producer")),
		producer.WithInstanceName(s.instance("producer")),
		producer.WithSendMsgTimeout(20*time.Second),
		producer.WithQueueSelector(byShardingKey{}),
	)
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { _ = made.Shutdown() })
	return made, made.Start()
}

// byShardingKey keeps messages of one key in one queue, and deals the others out.
type byShardingKey struct{}

var hash, deal = producer.NewHashQueueSelector(), producer.NewRoundRobinQueueSelector()

func (byShardingKey) Select(message *primitive.Message, queues []*primitive.MessageQueue, last string) *primitive.MessageQueue {
	if message.GetShardingKey() != "" {
		return hash.Select(message, queues, last)
	}
	return deal.Select(message, queues, last)
}

type handler func(*primitive.ConsumeConcurrentlyContext, *primitive.MessageExt) consumer.ConsumeResult

// consumes starts a member of a group that reads from the first message on.
func (s *stage) consumes(group, tags string, handle handler, options ...consumer.Option) error {
	return onceRouted(func() error { return s.member(group, tags, handle, options...) })
}

// onceRouted starts a consumer. This client does not start one before the name server knows its topic, and the broker
// tells it a moment after the first message.
func onceRouted(start func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := start()
		if err == nil || !strings.Contains(err.Error(), "route info not found") || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *stage) member(group, tags string, handle handler, options ...consumer.Option) error {
	usual := []consumer.Option{
		consumer.WithNsResolver(s.names),
		consumer.WithGroupName(group),
		consumer.WithInstance(s.instance("consumer")),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}
	made, err := rocketmq.NewPushConsumer(append(usual, options...)...)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, func() { _ = made.Shutdown() })
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: tags}
	err = made.Subscribe(s.topic(), selector, func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		result := consumer.ConsumeSuccess
		concurrently, _ := primitive.GetConcurrentlyCtx(ctx)
		for _, message := range messages {
			if wanted := handle(concurrently, message); wanted != consumer.ConsumeSuccess {
				result = wanted
			}
		}
		return result, nil
	})
	if err != nil {
		return err
	}
	return made.Start()
}

// reads is all that a new group sees of the topic.
func (s *stage) reads(tags string) (*seen, error) {
	all := &seen{}
	return all, s.consumes(s.group("reader"+strconv.Itoa(len(s.stops))), tags, all.note)
}

type seen struct {
	lock     sync.Mutex
	messages []*primitive.MessageExt
}

func (s *seen) note(_ *primitive.ConsumeConcurrentlyContext, message *primitive.MessageExt) consumer.ConsumeResult {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.messages = append(s.messages, message)
	return consumer.ConsumeSuccess
}

func (s *seen) bodies() []string {
	s.lock.Lock()
	defer s.lock.Unlock()
	bodies := make([]string, 0, len(s.messages))
	for _, message := range s.messages {
		bodies = append(bodies, string(message.Body))
	}
	return bodies
}

func (s *seen) becomes(expected ...string) error {
	sort.Strings(expected)
	return eventually(expected, func() any {
		bodies := s.bodies()
		sort.Strings(bodies)
		return bodies
	})
}

func eventually(expected any, actual func() any) error {
	deadline := time.Now().Add(patience)
	for {
		now := actual()
		if reflect.DeepEqual(now, expected) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("expected %v, got %v", expected, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *stage) message(tag, body string) *primitive.Message {
	return primitive.NewMessage(s.topic(), []byte(body)).WithTag(tag).WithKeys([]string{"key-" + body})
}

func isOk(result *primitive.SendResult, err error) error {
	if err == nil && (result.Status != primitive.SendOK || result.OffsetMsgID == "") {
		err = fmt.Errorf("not stored: %v", result)
	}
	return err
}

func background() context.Context { return context.Background() }
