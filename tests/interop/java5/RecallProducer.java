import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** Sends messages for an instant of their own, and takes one back in time and one too late. */
public class RecallProducer {
    private static final String TOPIC = "RecallTopic";
    private static DefaultMQProducer producer;

    public static void main(String[] args) throws Exception {
        producer = new DefaultMQProducer("java_recall_producer");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        send("at once", null);
        long now = System.currentTimeMillis();
        send("stays", now + 6000);
        SendResult goes = send("goes", now + 6000);
        String id = producer.recallMessage(TOPIC, goes.getRecallHandle());
        System.out.printf("RECALLED %b%n", id.equals(goes.getMsgId()));
        SendResult soon = send("soon", System.currentTimeMillis() + 2000);
        Thread.sleep(4000);
        try {
            producer.recallMessage(TOPIC, soon.getRecallHandle());
        } catch (MQBrokerException late) {
            System.out.printf("LATE %d%n", late.getResponseCode());
        }
        producer.shutdown();
    }

    private static SendResult send(String body, Long deliverAt) throws Exception {
        Message message = new Message(TOPIC, body.getBytes(StandardCharsets.UTF_8));
        if (deliverAt != null) {
            message.setDeliverTimeMs(deliverAt);
        }
        SendResult result = producer.send(message);
        System.out.printf("SENT %s %b %s%n", result.getSendStatus(), result.getRecallHandle() != null, body);
        return result;
    }
}
