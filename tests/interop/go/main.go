// An unmodified RocketMQ client for Go, one sub-command a feature.
//
// Prints a line for each message: `SENT status id queue offset body` and
// `GOT topic id queue offset times at_ms tags keys number body`, with `-` for what is not there.
package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

var ctx = context.Background()

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(word string) int {
	n, err := strconv.Atoi(word)
	check(err)
	return n
}

// A body as it is printed: a long one by its length and checksum.
func shown(body []byte) string {
	if len(body) <= 100 {
		return string(body)
	}
	return fmt.Sprintf("%d/%08x", len(body), crc32.ChecksumIEEE(body))
}

// Text of 64 letters in no order: it compresses, but not below three quarters.
func longBody(length int) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	text, state := make([]byte, length), uint32(1)
	for i := range text {
		state = (state*1103515245 + 12345) & 0x7fffffff
		text[i] = letters[state>>16&63]
	}
	return text
}

func message(topic, who string, n int) *primitive.Message {
	made := primitive.NewMessage(topic, []byte(fmt.Sprintf("%s %d", who, n)))
	made.WithTag([]string{"TagA", "TagB"}[n%2])
	made.WithKeys([]string{fmt.Sprintf("%s-%d", who, n)})
	made.WithProperty("number", strconv.Itoa(n))
	return made
}

func resolver(nameServer string) primitive.NsResolver {
	return primitive.NewPassthroughResolver([]string{nameServer})
}

func startProducer(nameServer string, options ...producer.Option) rocketmq.Producer {
	made, err := rocketmq.NewProducer(append([]producer.Option{
		producer.WithGroupName("go_producer"),
		producer.WithNsResolver(resolver(nameServer)),
		producer.WithSendMsgTimeout(20 * time.Second),
	}, options...)...)
	check(err)
	check(made.Start())
	return made
}

func status(result *primitive.SendResult) string {
	if result.Status == primitive.SendOK {
		return "SEND_OK"
	}
	return fmt.Sprintf("STATUS_%d", result.Status)
}

func sent(result *primitive.SendResult, body string) {
	fmt.Printf("SENT %s %s %d %d %s\n", status(result), result.MsgID,
		result.MessageQueue.QueueId, result.QueueOffset, body)
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func got(msg *primitive.MessageExt) {
	fmt.Printf("GOT %s %s %d %d %d %d %s %s %s %s\n", msg.Topic, msg.MsgId, msg.Queue.QueueId,
		msg.QueueOffset, msg.ReconsumeTimes, time.Now().UnixMilli(), orNone(msg.GetTags()),
		orNone(msg.GetKeys()), orNone(msg.GetProperty("number")), shown(msg.Body))
}

func sendAll(p rocketmq.Producer, topic, who string, count int, change func(*primitive.Message, int)) {
	for n := 0; n < count; n++ {
		made := message(topic, who, n)
		if change != nil {
			change(made, n)
		}
		result, err := p.SendSync(ctx, made)
		check(err)
		sent(result, fmt.Sprintf("%s %d", who, n))
	}
	check(p.Shutdown())
}

func send(nameServer, topic, who, count string) {
	sendAll(startProducer(nameServer), topic, who, number(count), nil)
}

func sendAsync(nameServer, topic, who, count string) {
	p := startProducer(nameServer)
	var answers sync.WaitGroup
	for n := 0; n < number(count); n++ {
		body := fmt.Sprintf("%s %d", who, n)
		answers.Add(1)
		check(p.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			defer answers.Done()
			check(err)
			sent(result, body)
		}, message(topic, who, n)))
	}
	answers.Wait()
	check(p.Shutdown())
}

func sendOneway(nameServer, topic, who, count string) {
	p := startProducer(nameServer)
	for n := 0; n < number(count); n++ {
		check(p.SendOneWay(ctx, message(topic, who, n)))
	}
	// Nothing tells when a one-way message has left this process, so give the last ones time.
	time.Sleep(time.Second)
	check(p.Shutdown())
}

func sendBatch(nameServer, topic, who, count string) {
	p := startProducer(nameServer)
	var all []*primitive.Message
	for n := 0; n < number(count); n++ {
		all = append(all, message(topic, who, n))
	}
	result, err := p.SendSync(ctx, all...)
	check(err)
	sent(result, who)
	check(p.Shutdown())
}

// Message n goes to queue n % 4.
func sendToQueue(nameServer, topic, who, count string) {
	p := startProducer(nameServer, producer.WithQueueSelector(producer.NewManualQueueSelector()))
	a, err := admin.NewAdmin(admin.WithResolver(resolver(nameServer)))
	check(err)
	queues, err := a.FetchPublishMessageQueues(ctx, topic)
	check(err)
	sendAll(p, topic, who, number(count), func(made *primitive.Message, n int) {
		for _, queue := range queues {
			if queue.QueueId == n%4 {
				made.Queue = queue
			}
		}
	})
}

func sendSharded(nameServer, topic, who, count string) {
	p := startProducer(nameServer, producer.WithQueueSelector(producer.NewHashQueueSelector()))
	sendAll(p, topic, who, number(count), func(made *primitive.Message, n int) {
		made.WithShardingKey(fmt.Sprintf("shard-%d", n%3))
	})
}

func sendDelayed(nameServer, topic, who, level string) {
	p := startProducer(nameServer)
	began := time.Now().UnixMilli()
	result, err := p.SendSync(ctx, message(topic, who, 0).WithDelayTimeLevel(number(level)))
	check(err)
	sent(result, fmt.Sprintf("%s %d", who, began))
	check(p.Shutdown())
}

func sendTimed(nameServer, topic, who, afterMs string) {
	p := startProducer(nameServer)
	due := time.Now().Add(time.Duration(number(afterMs)) * time.Millisecond)
	result, err := p.SendSync(ctx, message(topic, who, 0).WithDelayTimestamp(due))
	check(err)
	sent(result, fmt.Sprintf("%s %d", who, due.UnixMilli()))
	check(p.Shutdown())
}

// One long message, then a short one over the same connection.
func sendBody(nameServer, topic, who, length string) {
	p := startProducer(nameServer, producer.WithRetry(0))
	long := message(topic, who, 0)
	long.Body = longBody(number(length))
	body := shown(long.Body)
	result, err := p.SendSync(ctx, long)
	if err == nil {
		sent(result, body)
	} else {
		fmt.Println("REFUSED", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	sendAll(p, topic, who+"-after", 1, nil)
}

func sendNamespaced(nameServer, topic, who, count string) {
	p := startProducer(nameServer, producer.WithNamespace("space"))
	sendAll(p, topic, who, number(count), nil)
}

// The trace lies in its topic a moment after the send.
func sendTraced(nameServer, topic, who, count string) {
	p := startProducer(nameServer, producer.WithTrace(&primitive.TraceConfig{
		Access: primitive.Local, Resolver: resolver(nameServer),
	}))
	for n := 0; n < number(count); n++ {
		result, err := p.SendSync(ctx, message(topic, who, n))
		check(err)
		sent(result, fmt.Sprintf("%s %d", who, n))
	}
	// A trace leaves when its sender has looked for it twice.
	time.Sleep(7 * time.Second)
	check(p.Shutdown())
}

// Decides by what a body says: now, or when it is asked.
type decider struct{}

func (decider) ExecuteLocalTransaction(msg *primitive.Message) primitive.LocalTransactionState {
	return decision(string(msg.Body), "unknown")
}

func (decider) CheckLocalTransaction(msg *primitive.MessageExt) primitive.LocalTransactionState {
	fmt.Printf("CHECK %s %s %s\n", msg.Topic, msg.TransactionId, msg.Body)
	return decision(strings.TrimPrefix(string(msg.Body), "unknown-"), "none")
}

func decision(body, unknown string) primitive.LocalTransactionState {
	switch {
	case strings.HasPrefix(body, "commit"):
		return primitive.CommitMessageState
	case strings.HasPrefix(body, "rollback"):
		return primitive.RollbackMessageState
	case strings.HasPrefix(body, unknown):
		return primitive.UnkonwnState
	}
	panic("a body that decides nothing: " + body)
}

// Runs until it is told to stop, so that it can be asked.
func transact(nameServer, topic string) {
	p, err := rocketmq.NewTransactionProducer(decider{},
		producer.WithGroupName("go_transactions"),
		producer.WithNsResolver(resolver(nameServer)))
	check(err)
	check(p.Start())
	for n, who := range []string{"commit", "rollback", "unknown-commit", "unknown-rollback"} {
		result, err := p.SendMessageInTransaction(ctx, message(topic, who, n))
		check(err)
		sent(result.SendResult, fmt.Sprintf("%s %d", who, n))
	}
	select {}
}

func request(nameServer, topic, who, count string) {
	p := startProducer(nameServer)
	// A reply finds the one who asked by its heartbeat, which begins with its first message.
	sendAllKept(p, topic)
	for n := 0; n < number(count); n++ {
		answer, err := p.Request(ctx, 20*time.Second, message(topic, who, n))
		check(err)
		fmt.Printf("ANSWER %s\n", answer.Body)
	}
	check(p.Shutdown())
}

func sendAllKept(p rocketmq.Producer, topic string) {
	_, err := p.SendSync(ctx, primitive.NewMessage(topic, []byte("no request")))
	check(err)
	time.Sleep(2 * time.Second)
}

// Answers every request.
func reply(nameServer, group, topic string) {
	p := startProducer(nameServer)
	c := newConsumer(nameServer, group, "reply")
	check(c.Subscribe(topic, consumer.MessageSelector{}, func(_ context.Context,
		all ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, msg := range all {
			if msg.GetProperty(primitive.PropertyCorrelationID) == "" {
				continue
			}
			got(msg)
			made, err := consumer.CreateReplyMessage(msg, []byte("reply to "+string(msg.Body)))
			check(err)
			_, err = p.SendSync(ctx, made)
			check(err)
		}
		return consumer.ConsumeSuccess, nil
	}))
	check(c.Start())
	fmt.Println("STARTED")
	select {}
}

func newConsumer(nameServer, group, mode string, more ...consumer.Option) rocketmq.PushConsumer {
	options := append([]consumer.Option{
		consumer.WithGroupName(group),
		consumer.WithNsResolver(resolver(nameServer)),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, more...)
	switch mode {
	case "broadcast":
		options = append(options, consumer.WithConsumerModel(consumer.BroadCasting))
	case "orderly":
		options = append(options, consumer.WithConsumerOrder(true))
	case "namespaced":
		options = append(options, consumer.WithNamespace("space"))
	case "last":
		options = append(options, consumer.WithConsumeFromWhere(consumer.ConsumeFromLastOffset))
	}
	c, err := rocketmq.NewPushConsumer(options...)
	check(err)
	return c
}

func selector(expression, mode string) consumer.MessageSelector {
	if mode == "sql" {
		return consumer.MessageSelector{Type: consumer.SQL92, Expression: expression}
	}
	return consumer.MessageSelector{Type: consumer.TAG, Expression: expression}
}

// Takes all; `later`, `throw` and `suspend` in a body fail the first time.
func listen(nameServer, group, topic, expression, mode string) {
	c := newConsumer(nameServer, group, mode)
	check(c.Subscribe(topic, selector(expression, mode), func(_ context.Context,
		all ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, msg := range all {
			got(msg)
		}
		body := string(all[0].Body)
		if all[0].ReconsumeTimes == 0 {
			switch {
			case strings.HasPrefix(body, "later"):
				return consumer.ConsumeRetryLater, nil
			case strings.HasPrefix(body, "throw"):
				return consumer.ConsumeRetryLater, fmt.Errorf("the listener failed")
			case strings.HasPrefix(body, "suspend"):
				return consumer.SuspendCurrentQueueAMoment, nil
			}
		}
		return consumer.ConsumeSuccess, nil
	}))
	check(c.Start())
	fmt.Println("STARTED")
	select {}
}

// Pulls all queues from their beginning to their end, without a group's progress. A queue without a
// message would be waited for.
func pull(nameServer, group, topic, expression string) {
	c, err := rocketmq.NewPullConsumer(consumer.WithGroupName(group),
		consumer.WithNsResolver(resolver(nameServer)))
	check(err)
	check(c.Subscribe(topic, selector(expression, "")))
	check(c.Start())
	queues, err := c.GetTopicRouteInfo(topic)
	check(err)
	for _, queue := range queues {
		for offset := int64(0); ; {
			result, err := c.PullFrom(ctx, queue, offset, 10)
			check(err)
			for _, msg := range result.GetMessageExts() {
				got(msg)
			}
			offset = result.NextBeginOffset
			if offset == result.MaxOffset {
				break
			}
		}
	}
	check(c.Shutdown())
}

// Takes queues by itself, goes back to their beginning, and polls `count` messages.
func poll(nameServer, group, topic, count string) {
	c, err := rocketmq.NewPullConsumer(consumer.WithGroupName(group),
		consumer.WithNsResolver(resolver(nameServer)))
	check(err)
	check(c.Assign(topic, nil))
	check(c.Start())
	queues, err := c.GetTopicRouteInfo(topic)
	check(err)
	for _, queue := range queues {
		first, err := c.OffsetForTimestamp(queue, 0)
		check(err)
		c.SeekOffset(queue, first)
	}
	check(c.Assign(topic, queues))
	for seen := 0; seen < number(count); {
		request, err := c.Poll(ctx, 5*time.Second)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		check(err)
		for _, msg := range request.GetMsgList() {
			got(msg)
			seen++
		}
		c.ACK(ctx, request, consumer.ConsumeSuccess)
	}
	check(c.Shutdown())
}

// Makes a topic, looks for it, and takes it away again.
func administer(nameServer, broker, topic string) {
	a, err := admin.NewAdmin(admin.WithResolver(resolver(nameServer)))
	check(err)
	check(a.CreateTopic(ctx, admin.WithTopicCreate(topic), admin.WithBrokerAddrCreate(broker),
		admin.WithReadQueueNums(3), admin.WithWriteQueueNums(3)))
	queues, err := a.FetchPublishMessageQueues(ctx, topic)
	check(err)
	fmt.Println("QUEUES", len(queues))
	listed(a, topic)
	check(a.DeleteTopic(ctx, admin.WithTopicDelete(topic), admin.WithBrokerAddrDelete(broker),
		admin.WithNameSrvAddr([]string{nameServer})))
	listed(a, topic)
	groups, err := a.GetAllSubscriptionGroup(ctx, broker, 5*time.Second)
	check(err)
	fmt.Println("GROUPS", len(groups.SubscriptionGroupTable) > 0)
	check(a.Close())
}

func listed(a admin.Admin, topic string) {
	list, err := a.FetchAllTopicList(ctx)
	check(err)
	found := false
	for _, name := range list.TopicList {
		found = found || name == topic
	}
	fmt.Println("LISTED", found)
}

func main() {
	a := os.Args[2:]
	switch os.Args[1] {
	case "send":
		send(a[0], a[1], a[2], a[3])
	case "async":
		sendAsync(a[0], a[1], a[2], a[3])
	case "oneway":
		sendOneway(a[0], a[1], a[2], a[3])
	case "batch":
		sendBatch(a[0], a[1], a[2], a[3])
	case "queue":
		sendToQueue(a[0], a[1], a[2], a[3])
	case "sharded":
		sendSharded(a[0], a[1], a[2], a[3])
	case "delayed":
		sendDelayed(a[0], a[1], a[2], a[3])
	case "timed":
		sendTimed(a[0], a[1], a[2], a[3])
	case "body":
		sendBody(a[0], a[1], a[2], a[3])
	case "namespaced":
		sendNamespaced(a[0], a[1], a[2], a[3])
	case "traced":
		sendTraced(a[0], a[1], a[2], a[3])
	case "transact":
		transact(a[0], a[1])
	case "request":
		request(a[0], a[1], a[2], a[3])
	case "reply":
		reply(a[0], a[1], a[2])
	case "listen":
		listen(a[0], a[1], a[2], a[3], a[4])
	case "pull":
		pull(a[0], a[1], a[2], a[3])
	case "poll":
		poll(a[0], a[1], a[2], a[3])
	case "admin":
		administer(a[0], a[1], a[2])
	default:
		check(fmt.Errorf("no sub-command %s", os.Args[1]))
	}
}
