import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** Sends one message for each way in which RetryConsumer fails. */
public class RetryProducer {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("retry_producer_group");
        producer.setNamesrvAddr(args[0]);
        // The first send of a cold process can take longer than the default 3 s on a busy machine.
        producer.setSendMsgTimeout(20_000);
        producer.start();
        for (String failure : new String[] {"later", "throw", "null"}) {
            SendResult sent = producer.send(
                new Message("RetryTopic", "TagA", failure.getBytes(StandardCharsets.UTF_8)));
            System.out.printf("SENT %s %s %d %d %s%n", sent.getSendStatus(), sent.getMsgId(),
                sent.getMessageQueue().getQueueId(), sent.getQueueOffset(), failure);
        }
        producer.shutdown();
    }
}
