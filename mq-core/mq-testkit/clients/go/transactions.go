package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// Half messages: what the local transaction says, and what the broker asks about.
var transactions = []scenario{
	{"transaction-commit", transaction(true, primitive.CommitMessageState)},
	{"transaction-rollback", transaction(false, primitive.RollbackMessageState)},
	{"transaction-checked-commit", transaction(true, primitive.UnknowState, primitive.CommitMessageState)},
	{"transaction-checked-rollback", transaction(false, primitive.UnknowState, primitive.RollbackMessageState)},
	{"transaction-checked-twice", transaction(true, primitive.UnknowState, primitive.UnknowState, primitive.CommitMessageState)},
}

// script answers in this order; the last answer stays.
type script struct {
	answers []primitive.LocalTransactionState
	asked   int32
}

func (s *script) ExecuteLocalTransaction(*primitive.Message) primitive.LocalTransactionState {
	return s.answers[0]
}

func (s *script) CheckLocalTransaction(*primitive.MessageExt) primitive.LocalTransactionState {
	asked := int(atomic.AddInt32(&s.asked, 1))
	if asked >= len(s.answers) {
		asked = len(s.answers) - 1
	}
	return s.answers[asked]
}

func transaction(visible bool, answers ...primitive.LocalTransactionState) func(*stage) error {
	return func(s *stage) error {
		if err := sendAll(s, []string{"before"}); err != nil {
			return err
		}
		read, err := s.reads("*")
		if err != nil {
			return err
		}
		told := &script{answers: answers}
		from, err := rocketmq.NewTransactionProducer(told,
			producer.WithNsResolver(s.names),
			producer.WithGroupName(s.group("transaction")),
			producer.WithInstanceName(s.instance("transaction")),
		)
		if err != nil {
			return err
		}
		s.stops = append(s.stops, func() { _ = from.Shutdown() })
		if err := from.Start(); err != nil {
			return err
		}
		result, err := from.SendMessageInTransaction(background(), s.message("tag", "in-transaction"))
		if err != nil {
			return err
		}
		if result.State != answers[0] {
			return fmt.Errorf("local state: expected %v, got %v", answers[0], result.State)
		}
		// As often as the script has answers, and no more once one is final.
		if err := eventually(true, func() any { return int(atomic.LoadInt32(&told.asked)) >= len(answers)-1 }); err != nil {
			return fmt.Errorf("checks: %w", err)
		}
		// What is sent behind it is read behind it, unless it is invisible.
		if err := sendAll(s, []string{"after"}); err != nil {
			return err
		}
		if visible {
			return read.becomes("before", "in-transaction", "after")
		}
		if err := read.becomes("before", "after"); err != nil {
			return err
		}
		time.Sleep(1500 * time.Millisecond) // a check, were there one more, would have made it visible
		return read.becomes("before", "after")
	}
}
