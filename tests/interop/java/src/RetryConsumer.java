import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Fails every message the first time, in the way its body names, and takes it the second time. */
public class RetryConsumer {
    public static void main(String[] args) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("retry_consumer_group");
        consumer.setNamesrvAddr(args[0]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe("RetryTopic", "*");
        consumer.registerMessageListener(new MessageListenerConcurrently() {
            @Override
            public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages,
                ConsumeConcurrentlyContext context) {
                MessageExt message = messages.get(0);
                String failure = new String(message.getBody(), StandardCharsets.UTF_8);
                System.out.printf("GOT %s %s %d %d %s%n", message.getTopic(), message.getMsgId(),
                    message.getReconsumeTimes(), System.currentTimeMillis(), failure);
                return message.getReconsumeTimes() == 0 ? fail(failure)
                    : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(consumer::shutdown));
        consumer.start();
        System.out.println("STARTED");
    }

    private static ConsumeConcurrentlyStatus fail(String failure) {
        switch (failure) {
            case "later":
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            case "throw":
                throw new IllegalStateException("the listener failed");
            default:
                return null;
        }
    }
}
