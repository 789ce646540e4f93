import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Sends to a topic that nobody has made, then prints the queues it has got. */
public class RoutePrinter {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("route_producer_group");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        producer.send(new Message("BrandNewTopic", "first".getBytes(StandardCharsets.UTF_8)));
        for (MessageQueue queue : producer.fetchPublishMessageQueues("BrandNewTopic")) {
            System.out.printf("QUEUE %s %d%n", queue.getBrokerName(), queue.getQueueId());
        }
        producer.shutdown();
    }
}
