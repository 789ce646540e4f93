import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.RPCHook;

/**
 * What clients from 4.9 on have, one sub-command a feature, or several that belong together.
 *
 * <p>Prints a line for each message: `SENT status id queue offset body` and, after a listener's
 * name, `GOT topic id queue offset times at_ms tags keys number body`, with `-` for what is not
 * there.
 */
public class Interop {
    private static final int COUNT = 20;

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "send":
                send(args[1], args[2]);
                break;
            case "one":
                one(args[1], args[2], args[3]);
                break;
            case "listen":
                for (int i = 2; i < args.length; i++) {
                    listen(args[1], args[i].split(",", 5));
                }
                System.out.println("STARTED");
                break;
            case "transact":
                transact(args[1], args[2]);
                break;
            case "request":
                request(args[1], args[2]);
                break;
            case "pull":
                pull(args[1], args[2], args[3], Integer.parseInt(args[4]));
                break;
            case "query":
                query(args[1], args[2], args[3], args[4], args[5]);
                break;
            default:
                throw new IllegalArgumentException(args[0]);
        }
    }

    private static DefaultMQProducer producer(String nameServer, boolean trace) throws Exception {
        return started(nameServer,
            new DefaultMQProducer("java_producer_group", (RPCHook) null, trace, null));
    }

    private static <P extends DefaultMQProducer> P started(String nameServer, P producer)
        throws Exception {
        producer.setNamesrvAddr(nameServer);
        // The first send of a cold process can take longer than the default 3 s on a busy machine.
        producer.setSendMsgTimeout(20_000);
        producer.setMaxMessageSize(64 << 20);
        producer.start();
        return producer;
    }

    private static Message message(String topic, String who, int number) {
        Message message = new Message(topic, number % 2 == 0 ? "TagA" : "TagB",
            who + "-" + number, (who + " " + number).getBytes(StandardCharsets.UTF_8));
        message.putUserProperty("number", Integer.toString(number));
        return message;
    }

    private static synchronized void sent(SendResult result, String body) {
        System.out.printf("SENT %s %s %d %d %s%n", result.getSendStatus(), result.getMsgId(),
            result.getMessageQueue().getQueueId(), result.getQueueOffset(), body);
    }

    private static synchronized void got(String name, MessageExt message) {
        String number = message.getUserProperty("number");
        System.out.printf("%s GOT %s %s %d %d %d %d %s %s %s %s%n", name, message.getTopic(),
            message.getMsgId(), message.getQueueId(), message.getQueueOffset(),
            message.getReconsumeTimes(), System.currentTimeMillis(), orNone(message.getTags()),
            orNone(message.getKeys()), orNone(number), shown(message.getBody()));
    }

    private static String orNone(String text) {
        return text == null ? "-" : text;
    }

    /** A body as it is printed: a long one by its length and checksum. */
    private static String shown(byte[] body) {
        if (body.length <= 100) {
            return new String(body, StandardCharsets.UTF_8);
        }
        CRC32 crc = new CRC32();
        crc.update(body);
        return String.format("%d/%08x", body.length, crc.getValue());
    }

    /** Text of 64 letters in no order: it compresses, but not below three quarters. */
    private static byte[] longBody(int length) {
        String letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        byte[] text = new byte[length];
        int state = 1;
        for (int i = 0; i < length; i++) {
            state = state * 1103515245 + 12345 & 0x7fffffff;
            text[i] = (byte) letters.charAt(state >> 16 & 63);
        }
        return text;
    }

    /** One message. */
    private static void one(String nameServer, String topic, String who) throws Exception {
        DefaultMQProducer producer = producer(nameServer, false);
        sent(producer.send(message(topic, who, 0)), who + " 0");
        producer.shutdown();
    }

    /** In every way that a producer has. */
    private static void send(String nameServer, String topic) throws Exception {
        DefaultMQProducer producer = producer(nameServer, true);
        for (int i = 0; i < COUNT; i++) {
            sent(producer.send(message(topic, "sync", i)), "sync " + i);
        }
        sendAsync(producer, topic);
        for (int i = 0; i < COUNT; i++) {
            producer.sendOneway(message(topic, "oneway", i));
        }
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < COUNT; i++) {
            batch.add(message(topic, "batch", i));
        }
        sent(producer.send(batch), "batch");
        List<MessageQueue> queues = producer.fetchPublishMessageQueues(topic);
        for (int i = 0; i < COUNT; i++) {
            int wanted = i % 4;
            MessageQueue queue =
                queues.stream().filter(one -> one.getQueueId() == wanted).findFirst().get();
            sent(producer.send(message(topic, "queue", i), queue), "queue " + i);
        }
        for (int i = 0; i < COUNT; i++) {
            sent(producer.send(message(topic, "sharded", i), new SelectMessageQueueByHash(),
                "shard-" + i % 3), "sharded " + i);
        }
        sendBodies(producer, topic);
        Message delayed = message(topic, "delayed", 0);
        delayed.setDelayTimeLevel(2);
        long beganMs = System.currentTimeMillis();
        sent(producer.send(delayed), "delayed " + beganMs);
        producer.shutdown();
    }

    private static void sendAsync(DefaultMQProducer producer, String topic) throws Exception {
        CountDownLatch answers = new CountDownLatch(COUNT);
        for (int i = 0; i < COUNT; i++) {
            String body = "async " + i;
            producer.send(message(topic, "async", i), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    sent(result, body);
                    answers.countDown();
                }

                @Override
                public void onException(Throwable cause) {
                    System.out.printf("FAILED %s: %s%n", body, cause);
                    answers.countDown();
                }
            });
        }
        answers.await();
    }

    /** A long body, one too long, and a short one over the same connection. */
    private static void sendBodies(DefaultMQProducer producer, String topic) throws Exception {
        Message longer = message(topic, "long", 0);
        longer.setBody(longBody(8000));
        sent(producer.send(longer), shown(longBody(8000)));
        Message huge = message(topic, "huge", 0);
        huge.setBody(longBody(6_000_000));
        try {
            sent(producer.send(huge), "huge");
        } catch (MQBrokerException refused) {
            System.out.printf("REFUSED %d%n", refused.getResponseCode());
        }
        sent(producer.send(message(topic, "after", 0)), "after 0");
    }

    /** A listener of its own name: {@code name,mode,group,topic,expression}. */
    private static void listen(String nameServer, String[] what) throws Exception {
        String name = what[0];
        String mode = what[1];
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(what[2]);
        consumer.setNamesrvAddr(nameServer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setInstanceName(name);
        if (mode.equals("sql")) {
            consumer.subscribe(what[3], MessageSelector.bySql(what[4]));
        } else {
            consumer.subscribe(what[3], what[4]);
        }
        switch (mode) {
            case "orderly":
                consumer.registerMessageListener(new Orderly(name));
                break;
            case "reply":
                consumer.registerMessageListener(new Replying(name, producer(nameServer, false)));
                break;
            case "broadcast":
                // The enumeration has moved from one package to another between 4.9 and 5.
                consumer.setMessageModel(consumer.getMessageModel().valueOf("BROADCASTING"));
                consumer.registerMessageListener(new Concurrent(name));
                break;
            case "half":
                consumer.setConsumeMessageBatchMaxSize(COUNT);
                consumer.registerMessageListener(new Half(name));
                break;
            default:
                consumer.registerMessageListener(new Concurrent(name));
        }
        consumer.start();
    }

    /** Takes all; `later`, `throw` and `null` in a body fail the first time. */
    private static class Concurrent implements MessageListenerConcurrently {
        private final String name;

        Concurrent(String name) {
            this.name = name;
        }

        @Override
        public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages,
            ConsumeConcurrentlyContext context) {
            MessageExt message = messages.get(0);
            got(name, message);
            String body = shown(message.getBody());
            if (message.getReconsumeTimes() == 0) {
                if (body.startsWith("later")) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                if (body.startsWith("null")) {
                    return null;
                }
                if (body.startsWith("throw")) {
                    throw new IllegalStateException("the listener failed");
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }
    }

    /** Acknowledges the first of several messages, and so lets the others come again. */
    private static class Half implements MessageListenerConcurrently {
        private final String name;

        Half(String name) {
            this.name = name;
        }

        @Override
        public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages,
            ConsumeConcurrentlyContext context) {
            for (MessageExt message : messages) {
                got(name, message);
            }
            if (messages.get(0).getReconsumeTimes() == 0) {
                System.out.printf("%s TOOK 1 OF %d%n", name, messages.size());
                context.setAckIndex(0);
                context.setDelayLevelWhenNextConsume(1);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }
    }

    /** Suspends its queue once for every message that says so. */
    private static class Orderly implements MessageListenerOrderly {
        private final String name;
        private final List<String> suspended = Collections.synchronizedList(new ArrayList<>());

        Orderly(String name) {
            this.name = name;
        }

        @Override
        public ConsumeOrderlyStatus consumeMessage(List<MessageExt> messages,
            ConsumeOrderlyContext context) {
            MessageExt message = messages.get(0);
            got(name, message);
            if (message.getKeys().equals("queue-5") && !suspended.contains(message.getKeys())) {
                suspended.add(message.getKeys());
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            return ConsumeOrderlyStatus.SUCCESS;
        }
    }

    /** Answers every request. */
    private static class Replying implements MessageListenerConcurrently {
        private final String name;
        private final DefaultMQProducer producer;

        Replying(String name, DefaultMQProducer producer) {
            this.name = name;
            this.producer = producer;
        }

        @Override
        public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages,
            ConsumeConcurrentlyContext context) {
            for (MessageExt message : messages) {
                got(name, message);
                byte[] reply = ("reply to " + shown(message.getBody())).getBytes();
                try {
                    producer.send(MessageUtil.createReplyMessage(message, reply));
                } catch (Exception failed) {
                    throw new IllegalStateException(failed);
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }
    }

    private static void request(String nameServer, String topic) throws Exception {
        DefaultMQProducer producer = producer(nameServer, false);
        for (int i = 0; i < 3; i++) {
            Message reply = producer.request(message(topic, "request", i), 20_000);
            System.out.printf("ANSWER %s%n", shown(reply.getBody()));
        }
        producer.shutdown();
    }

    /** Decides by what a body says: now, or when it is asked. Runs until it is told to stop. */
    private static void transact(String nameServer, String topic) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer("java_transactions");
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return decision(shown(message.getBody()));
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                String body = shown(message.getBody());
                System.out.printf("CHECK %s %s %s%n", message.getTopic(),
                    message.getTransactionId(), body);
                return decision(body.substring("unknown-".length()));
            }
        });
        started(nameServer, producer);
        String[] all = {"commit", "rollback", "unknown-commit", "unknown-rollback"};
        for (int i = 0; i < all.length; i++) {
            sent(producer.sendMessageInTransaction(message(topic, all[i], i), null),
                all[i] + " " + i);
        }
    }

    private static LocalTransactionState decision(String body) {
        if (body.startsWith("commit")) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }
        return body.startsWith("rollback") ? LocalTransactionState.ROLLBACK_MESSAGE
            : LocalTransactionState.UNKNOW;
    }

    /** Goes to the beginning of all queues, polls a number of messages, and says where it is. */
    private static void pull(String nameServer, String group, String topic, int count)
        throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group);
        consumer.setNamesrvAddr(nameServer);
        consumer.setAutoCommit(false);
        consumer.start();
        Collection<MessageQueue> queues = consumer.fetchMessageQueues(topic);
        consumer.assign(queues);
        for (MessageQueue queue : queues) {
            consumer.seek(queue, consumer.offsetForTimestamp(queue, 0L));
        }
        for (int seen = 0; seen < count; ) {
            for (MessageExt message : consumer.poll(1000)) {
                got("pull", message);
                seen++;
            }
        }
        consumer.commitSync();
        long committed = 0;
        for (MessageQueue queue : queues) {
            committed += consumer.committed(queue);
        }
        System.out.printf("COMMITTED %d%n", committed);
        consumer.shutdown();
    }

    /** Looks for a message in all ways, and at the ends of its queue. */
    private static void query(String nameServer, String topic, String id, String key, String queue)
        throws Exception {
        DefaultMQProducer producer = producer(nameServer, false);
        MessageExt byId = producer.viewMessage(topic, id);
        got("unique", byId);
        String offsetId = ((org.apache.rocketmq.common.message.MessageClientExt) byId)
            .getOffsetMsgId();
        got("offset", producer.viewMessage(topic, offsetId));
        for (MessageExt one : producer
            .queryMessage(topic, key, 32, 0, System.currentTimeMillis() + 60_000)
            .getMessageList()) {
            got("key", one);
        }
        for (MessageQueue one : producer.fetchPublishMessageQueues(topic)) {
            if (one.getQueueId() == Integer.parseInt(queue)) {
                System.out.printf("ENDS %d %d %d%n", producer.minOffset(one),
                    producer.maxOffset(one), producer.searchOffset(one, 0));
            }
        }
        producer.shutdown();
    }
}
