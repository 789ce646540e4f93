import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Sends to a topic that nobody has made, then prints the queues it has got. */
public class RoutePrinter {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("route_producer_group");
        producer.setNamesrvAddr(args[0]);
        // The first send of a cold process can take longer than the default 3 s on a busy machine.
        producer.setSendMsgTimeout(20_000);
        producer.start();
        producer.send(new Message("BrandNewTopic", "first".getBytes(StandardCharsets.UTF_8)));
        for (MessageQueue queue : queues(producer)) {
            System.out.printf("QUEUE %s %d%n", queue.getBrokerName(), queue.getQueueId());
        }
        producer.shutdown();
    }

    /** A broker may tell its name server of a new topic a moment after the send was answered. */
    private static List<MessageQueue> queues(DefaultMQProducer producer) throws Exception {
        for (int tries = 0; ; tries++) {
            try {
                return producer.fetchPublishMessageQueues("BrandNewTopic");
            } catch (MQClientException unknown) {
                if (tries == 50) {
                    throw unknown;
                }
                Thread.sleep(100);
            }
        }
    }
}
