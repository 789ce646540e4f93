// What clients do, once each: the traffic behind the captured frames. See README.md beside it.

import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

public class Traffic {
    static final String TOPIC = "golden";

    public static void main(String[] args) {
        int status = 0;
        try {
            run(args);
        } catch (Exception e) {
            e.printStackTrace();
            status = 1;
        }
        System.exit(status);
    }

    static void run(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("golden-producers");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        List<SendResult> sent = send(producer);
        CountDownLatch consumed = new CountDownLatch(6);
        DefaultMQPushConsumer concurrent = concurrent(args[0], consumed);
        DefaultMQPushConsumer orderly = orderly(args[0]);
        transactions(args[0]);
        ask(producer, sent, Integer.parseInt(args[1]));
        pull(args[0]);
        consumed.await(60, TimeUnit.SECONDS);
        Thread.sleep(12000); // the first retry and the first report of offsets
        concurrent.shutdown();
        orderly.shutdown();
        producer.shutdown();
    }

    static List<SendResult> send(DefaultMQProducer producer) throws Exception {
        List<SendResult> sent = new ArrayList<SendResult>();
        Message plain = new Message(TOPIC, "TagA", "key-1 key-2", "hello".getBytes("UTF-8"));
        plain.putUserProperty("send-time", "1700000000000");
        plain.putUserProperty("name", "\u6807\u7B7E \uD83D\uDE00 \"quoted\" \\ / \t");
        plain.setFlag(7);
        sent.add(producer.send(plain));
        sent.add(producer.send(new Message(TOPIC, "no tag".getBytes("UTF-8"))));
        StringBuilder large = new StringBuilder();
        for (int i = 0; i < 1000; i++) {
            large.append("compress me ");
        }
        sent.add(producer.send(new Message(TOPIC, "TagB", large.toString().getBytes("UTF-8"))));
        producer.sendOneway(new Message(TOPIC, "TagA", "one way".getBytes("UTF-8")));
        Message later = new Message(TOPIC, "TagA", "later".getBytes("UTF-8"));
        later.setDelayTimeLevel(1);
        later.setWaitStoreMsgOK(false);
        sent.add(producer.send(later));
        List<Message> batch = new ArrayList<Message>();
        for (int i = 0; i < 3; i++) {
            batch.add(new Message(TOPIC, "TagC", "batch-" + i, ("item " + i).getBytes("UTF-8")));
        }
        sent.add(producer.send(batch));
        createTopic(producer);
        return sent;
    }

    // 5.x wants attributes too.
    static void createTopic(DefaultMQProducer producer) throws Exception {
        try {
            Method method = DefaultMQProducer.class.getMethod(
                "createTopic", String.class, String.class, int.class, Map.class);
            method.invoke(producer, "TBW102", "golden-made", 2, new HashMap<String, String>());
        } catch (NoSuchMethodException e) {
            Method method = DefaultMQProducer.class.getMethod(
                "createTopic", String.class, String.class, int.class);
            method.invoke(producer, "TBW102", "golden-made", 2);
        }
    }

    static DefaultMQPushConsumer concurrent(String names, final CountDownLatch left) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("golden-concurrent");
        consumer.setNamesrvAddr(names);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(TOPIC, "TagA || TagB || TagC");
        final AtomicInteger failures = new AtomicInteger(2);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                if (failures.getAndDecrement() > 0) {
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                left.countDown();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        return consumer;
    }

    static DefaultMQPushConsumer orderly(String names) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("golden-orderly");
        consumer.setNamesrvAddr(names);
        consumer.setInstanceName("orderly");
        consumer.subscribe(TOPIC, MessageSelector.bySql("name is not null"));
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) ->
            ConsumeOrderlyStatus.SUCCESS);
        consumer.start();
        return consumer;
    }

    static void transactions(String names) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer("golden-transactions");
        producer.setNamesrvAddr(names);
        producer.setInstanceName("transactions");
        producer.setTransactionListener(new TransactionListener() {
            public LocalTransactionState executeLocalTransaction(Message message, Object state) {
                return (LocalTransactionState) state;
            }

            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();
        Thread.sleep(1500); // the broker checks only those whose heartbeat it has seen
        for (LocalTransactionState state : LocalTransactionState.values()) {
            Message message = new Message(TOPIC, "TagA", state.name(), "half".getBytes("UTF-8"));
            producer.sendMessageInTransaction(message, state);
        }
        final TransactionMQProducer checked = producer;
        new Thread(() -> {
            try {
                Thread.sleep(20000);
                checked.shutdown();
            } catch (InterruptedException e) {
                checked.shutdown();
            }
        }).start();
    }

    static void ask(DefaultMQProducer producer, List<SendResult> sent, int port) throws Exception {
        Thread.sleep(2000); // the index follows the log
        producer.queryMessage(TOPIC, "key-1", 8, 0, System.currentTimeMillis() + 1000);
        producer.viewMessage(TOPIC, sent.get(0).getMsgId());
        // The id leads to the broker itself; with another port it leads to who stands before it.
        String id = sent.get(0).getOffsetMsgId();
        id = id.substring(0, 8) + String.format("%08X", port) + id.substring(16);
        producer.viewMessage(TOPIC, id);
        try {
            producer.queryMessage(TOPIC, "no such key", 8, 0, System.currentTimeMillis());
        } catch (Exception e) {
            System.err.println("as expected: " + e.getMessage());
        }
        for (MessageQueue queue : producer.fetchPublishMessageQueues(TOPIC)) {
            producer.maxOffset(queue);
            producer.minOffset(queue);
            producer.searchOffset(queue, 0);
            producer.earliestMsgStoreTime(queue);
        }
    }

    static void pull(String names) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer("golden-pull");
        consumer.setNamesrvAddr(names);
        consumer.setInstanceName("pull");
        consumer.start();
        Thread.sleep(1500);
        for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(TOPIC)) {
            consumer.pull(queue, "*", 0, 32);
            consumer.pull(queue, "*", 1000, 32);
            consumer.updateConsumeOffset(queue, 1);
            consumer.fetchConsumeOffset(queue, true);
        }
        consumer.shutdown();
    }
}
