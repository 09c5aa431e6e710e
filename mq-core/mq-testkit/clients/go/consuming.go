package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Push consumers: filters, order, sharing, broadcast and retry.
var consuming = []scenario{
	{"consume-tags", tags},
	{"consume-orderly", orderly},
	{"consume-shared", shared},
	{"consume-broadcast", broadcast},
	{"consume-retry", retry},
}

func tags(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	// "Aa" and "BB" have one hash: the broker's index cannot tell them apart, the consumer must.
	for _, tag := range []string{"red", "green", "blue", "Aa", "BB"} {
		if err := isOk(from.SendSync(background(), s.message(tag, tag))); err != nil {
			return err
		}
	}
	some, err := s.reads("red || green")
	if err != nil {
		return err
	}
	twin, err := s.reads("Aa")
	if err != nil {
		return err
	}
	if err := some.becomes("red", "green"); err != nil {
		return err
	}
	return twin.becomes("Aa")
}

func orderly(s *stage) error {
	from, err := s.producer()
	if err != nil {
		return err
	}
	const keys, each = 4, 10
	for i := 0; i < keys*each; i++ {
		key := strconv.Itoa(i % keys)
		message := s.message("tag", fmt.Sprintf("%s:%02d", key, i/keys)).WithShardingKey(key)
		if err := isOk(from.SendSync(background(), message)); err != nil {
			return err
		}
	}
	var lock sync.Mutex
	order, suspended := map[string][]string{}, map[string]bool{}
	handle := func(_ *primitive.ConsumeConcurrentlyContext, message *primitive.MessageExt) consumer.ConsumeResult {
		lock.Lock()
		defer lock.Unlock()
		key, number, _ := strings.Cut(string(message.Body), ":")
		if number == "05" && !suspended[key] {
			suspended[key] = true
			return consumer.SuspendCurrentQueueAMoment
		}
		order[key] = append(order[key], number)
		return consumer.ConsumeSuccess
	}
	if err := s.consumes(s.group("orderly"), "*", handle, consumer.WithConsumerOrder(true)); err != nil {
		return err
	}
	expected := map[string][]string{}
	for key := 0; key < keys; key++ {
		for number := 0; number < each; number++ {
			expected[strconv.Itoa(key)] = append(expected[strconv.Itoa(key)], fmt.Sprintf("%02d", number))
		}
	}
	return eventually(expected, func() any {
		lock.Lock()
		defer lock.Unlock()
		now := map[string][]string{}
		for key, numbers := range order {
			now[key] = append([]string(nil), numbers...)
		}
		return now
	})
}

func shared(s *stage) error {
	if err := sendAll(s, []string{"first"}); err != nil {
		return err
	}
	both := &seen{}
	for member := 0; member < 2; member++ {
		if err := s.consumes(s.group("shared"), "*", both.note); err != nil {
			return err
		}
	}
	bodies := numbered("shared", 40)
	if err := sendAll(s, bodies); err != nil {
		return err
	}
	// While the members change hands a message may come twice; none may be missing.
	return eventually(len(bodies)+1, func() any {
		each := map[string]bool{}
		for _, body := range both.bodies() {
			each[body] = true
		}
		return len(each)
	})
}

func broadcast(s *stage) error {
	bodies := numbered("broadcast", 10)
	if err := sendAll(s, bodies); err != nil {
		return err
	}
	group, readers := s.group("broadcast"), []*seen{{}, {}}
	for _, reader := range readers {
		if err := s.consumes(group, "*", reader.note, consumer.WithConsumerModel(consumer.BroadCasting)); err != nil {
			return err
		}
	}
	for _, reader := range readers {
		if err := reader.becomes(bodies...); err != nil {
			return err
		}
	}
	return nil
}

func retry(s *stage) error {
	if err := sendAll(s, []string{"poison"}); err != nil {
		return err
	}
	attempts := &seen{}
	handle := func(context *primitive.ConsumeConcurrentlyContext, message *primitive.MessageExt) consumer.ConsumeResult {
		attempts.note(nil, &primitive.MessageExt{Message: primitive.Message{Body: []byte(strconv.Itoa(int(message.ReconsumeTimes)))}})
		context.DelayLevelWhenNextConsume = 1
		if message.ReconsumeTimes < 2 {
			return consumer.ConsumeRetryLater
		}
		return consumer.ConsumeSuccess
	}
	if err := s.consumes(s.group("retry"), "*", handle); err != nil {
		return err
	}
	return attempts.becomes("0", "1", "2")
}
