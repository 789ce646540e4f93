import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.remoting.common.RemotingHelper;

/** Sends 100 messages and waits for each one's answer. */
public class SyncProducer {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("sync_producer_group");
        producer.setNamesrvAddr(args[0]);
        // The first send of a cold process can take longer than the default 3 s on a busy machine.
        producer.setSendMsgTimeout(20_000);
        producer.start();
        for (int i = 0; i < 100; i++) {
            Message message = new Message("SyncTopic", i % 2 == 0 ? "TagA" : "TagB", "key-" + i,
                ("sync message " + i).getBytes(RemotingHelper.DEFAULT_CHARSET));
            message.putUserProperty("sentAt", Long.toString(System.currentTimeMillis()));
            SendResult sent = producer.send(message);
            System.out.printf("SENT %s %s %d %d sync message %d%n", sent.getSendStatus(),
                sent.getMsgId(), sent.getMessageQueue().getQueueId(), sent.getQueueOffset(), i);
        }
        producer.shutdown();
    }
}
