import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;

/** Sends 100 messages and asks for no answer. */
public class OnewayProducer {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("oneway_producer_group");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        for (int i = 0; i < 100; i++) {
            producer.sendOneway(new Message("OnewayTopic", "TagA", "key-" + i,
                ("oneway message " + i).getBytes(StandardCharsets.UTF_8)));
        }
        // Nothing tells when a one-way message has left this process, so give the last ones time.
        Thread.sleep(1000);
        producer.shutdown();
    }
}
