import java.nio.charset.StandardCharsets;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Groups that begin at the first message, at a time, and behind the last message. */
public class StartPositions {
    private static final String TOPIC = "StartTopic";
    private static final List<DefaultMQPushConsumer> CONSUMERS = new ArrayList<>();
    private static DefaultMQProducer producer;

    public static void main(String[] args) throws Exception {
        producer = new DefaultMQProducer("java_start_producer");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        send("first");
        // Times of consumers are whole seconds.
        Thread.sleep(3000);
        Date between = new Date(System.currentTimeMillis() - 1000);
        send("second");
        listen(args[0], "FIRST", ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, null);
        listen(args[0], "TIME", ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, between);
        listen(args[0], "LAST", ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, null);
        Thread.sleep(6000);
        send("third");
        Thread.sleep(3000);
        for (DefaultMQPushConsumer consumer : CONSUMERS) {
            consumer.shutdown();
        }
        producer.shutdown();
    }

    private static void send(String body) throws Exception {
        producer.send(new Message(TOPIC, body.getBytes(StandardCharsets.UTF_8)));
    }

    private static void listen(String nameServer, String name, ConsumeFromWhere from, Date time) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("java_start_" + name);
        consumer.setNamesrvAddr(nameServer);
        consumer.setConsumeFromWhere(from);
        if (time != null) {
            consumer.setConsumeTimestamp(new SimpleDateFormat("yyyyMMddHHmmss").format(time));
        }
        consumer.subscribe(TOPIC, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                System.out.printf("%s %s%n", name, new String(message.getBody(), StandardCharsets.UTF_8));
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        CONSUMERS.add(consumer);
    }
}
