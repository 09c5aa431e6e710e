// Scenarios of the official Go client against a name server: go-clients HOST:PORT [scenario...].
//
// It prints "PASS name" or "FAIL name: reason" for each; the exit status is 1 when one failed. The broker must keep the
// delay levels "1s 2s 3s ..." and check transactions after one second, every second.
package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

type scenario struct {
	name string
	run  func(*stage) error
}

func main() {
	rlog.SetLogLevel("fatal")
	all := append(append(sending, consuming...), transactions...)
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go-clients NAME_SERVER [scenario...]")
		os.Exit(2)
	}
	if !run(os.Args[1], chosen(all, os.Args[2:])) {
		os.Exit(1)
	}
}

func chosen(all []scenario, names []string) []scenario {
	if len(names) == 0 {
		return all
	}
	var some []scenario
	for _, it := range all {
		for _, name := range names {
			if it.name == name {
				some = append(some, it)
			}
		}
	}
	return some
}

// All of them at once: they share nothing but the broker, and most of them wait most of the time.
func run(nameServer string, scenarios []scenario) bool {
	green := len(scenarios) > 0
	var finished sync.WaitGroup
	var print sync.Mutex
	for _, it := range scenarios {
		finished.Add(1)
		go func(it scenario) {
			defer finished.Done()
			started := time.Now()
			err := attempt(nameServer, it)
			print.Lock()
			defer print.Unlock()
			if err != nil {
				green = false
				fmt.Printf("FAIL %s: %v\n", it.name, err)
				return
			}
			fmt.Printf("PASS %s (%d ms)\n", it.name, time.Since(started).Milliseconds())
		}(it)
	}
	finished.Wait()
	return green
}

func attempt(nameServer string, it scenario) (err error) {
	on := newStage(nameServer, it.name)
	defer on.close()
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	return it.run(on)
}
