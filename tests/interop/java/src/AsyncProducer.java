import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** Sends 100 messages without waiting; the answers arrive in a callback. */
public class AsyncProducer {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("async_producer_group");
        producer.setNamesrvAddr(args[0]);
        // The first send of a cold process can take longer than the default 3 s on a busy machine.
        producer.setSendMsgTimeout(20_000);
        producer.start();
        CountDownLatch answers = new CountDownLatch(100);
        for (int i = 0; i < 100; i++) {
            String body = "async message " + i;
            Message message = new Message("AsyncTopic", "TagA", "key-" + i,
                body.getBytes(StandardCharsets.UTF_8));
            producer.send(message, new SendCallback() {
                @Override
                public void onSuccess(SendResult sent) {
                    System.out.printf("SENT %s %s %d %d %s%n", sent.getSendStatus(),
                        sent.getMsgId(), sent.getMessageQueue().getQueueId(),
                        sent.getQueueOffset(), body);
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
        producer.shutdown();
        // 4.4.0 leaves the threads of its asynchronous sends running.
        System.exit(0);
    }
}
