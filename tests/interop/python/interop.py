"""An unmodified RocketMQ client for Python (PyPI `rocketmq`, over the C++ client), one sub-command a feature.

Prints a line for each message: `SENT status id queue offset body` and
`GOT topic id queue offset times at_ms tags keys number body`, with `-` for what is unknown or not there.
"""

import string
import sys
import threading
import time
import zlib

from rocketmq.client import Message, Producer, PullConsumer, PushConsumer
from rocketmq.exceptions import RocketMQException
from rocketmq.ffi import MessageModel

ONE_LINE = threading.Lock()


def say(*words):
    with ONE_LINE:
        print(*words, flush=True)


def shown(body):
    """A body as it is printed: a long one by its length and checksum."""
    if len(body) <= 100:
        return body.decode()
    return "%d/%08x" % (len(body), zlib.crc32(body))


def long_body(length):
    """Text of 64 letters in no order: it compresses, but not below three quarters."""
    letters, state = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/", 1
    text = []
    for _ in range(length):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        text.append(letters[state >> 16 & 63])
    return "".join(text)


def message(topic, who, number):
    msg = Message(topic)
    msg.set_tags(["TagA", "TagB"][number % 2])
    msg.set_keys("%s-%d" % (who, number))
    msg.set_property("number", str(number))
    msg.set_body("%s %d" % (who, number))
    return msg


def producer(name_server, **options):
    made = Producer("python_producer", timeout=20_000, **options)
    made.set_namesrv_addr(name_server)
    made.start()
    return made


def sent(result, body, queue="-"):
    say("SENT", result.status.name, result.msg_id, queue, result.offset, body)


def got(msg):
    text = [value.decode() if value else "-" for value in (msg.tags, msg.keys, msg["number"])]
    say("GOT", msg.topic, msg.id, msg.queue_id, msg.queue_offset, msg.reconsume_times,
        int(time.time() * 1000), *text, shown(msg.body))


def send(name_server, topic, who, count):
    made = producer(name_server)
    for number in range(int(count)):
        sent(made.send_sync(message(topic, who, number)), "%s %d" % (who, number))
    made.shutdown()


def send_async(name_server, topic, who, count):
    made = producer(name_server)
    answers = threading.Semaphore(0)

    def succeeded(result, body):
        sent(result, body)
        answers.release()

    def failed(error):
        say("FAILED", error)
        answers.release()

    for number in range(int(count)):
        body = "%s %d" % (who, number)
        made.send_async(message(topic, who, number), lambda r, b=body: succeeded(r, b), failed)
    for _ in range(int(count)):
        answers.acquire()
    made.shutdown()


def send_oneway(name_server, topic, who, count):
    made = producer(name_server)
    for number in range(int(count)):
        made.send_oneway(message(topic, who, number))
    # Nothing tells when a one-way message has left this process, so give the last ones time.
    time.sleep(1)
    made.shutdown()


def send_batch(name_server, topic, who, count):
    made = producer(name_server)
    result = made.send_batch([message(topic, who, number) for number in range(int(count))])
    sent(result, who)
    made.shutdown()


def send_orderly(name_server, topic, who, count):
    """Message n goes to queue n % 4: the selector of the client takes the rest of its argument."""
    made = producer(name_server)
    for number in range(int(count)):
        result = made.send_orderly(message(topic, who, number), number % 4)
        sent(result, "%s %d" % (who, number), number % 4)
    made.shutdown()


def send_delayed(name_server, topic, who, level):
    made = producer(name_server)
    msg = message(topic, who, 0)
    msg.set_delay_time_level(int(level))
    began_ms = int(time.time() * 1000)
    sent(made.send_sync(msg), "%s %d" % (who, began_ms))
    made.shutdown()


def send_body(name_server, topic, who, length):
    """One long message, then a short one over the same connection."""
    made = producer(name_server, max_message_size=64 << 20)
    body = long_body(int(length))
    msg = message(topic, who, 0)
    msg.set_body(body)
    try:
        sent(made.send_sync(msg), shown(body.encode()))
    except RocketMQException as refused:
        say("REFUSED", type(refused).__name__, str(refused).replace("\n", " "))
    sent(made.send_sync(message(topic, who, 1)), "%s 1" % who)
    made.shutdown()


def listen(name_server, group, topic, expression="*", mode=""):
    """Takes all; `later` and `throw` in a body fail the first time. `mode` is orderly or broadcast."""
    model = MessageModel.BROADCASTING if mode == "broadcast" else MessageModel.CLUSTERING
    consumer = PushConsumer(group, orderly=mode == "orderly", message_model=model)
    consumer.set_namesrv_addr(name_server)
    tried = set()

    def take(msg):
        got(msg)
        body = shown(msg.body)
        if body.startswith(("later", "throw")) and body not in tried:
            tried.add(body)
            raise ValueError("the listener failed")

    consumer.subscribe(topic, take, expression)
    consumer.start()
    say("STARTED")
    threading.Event().wait()


def pull(name_server, group, topic, expression="*"):
    consumer = PullConsumer(group)
    consumer.set_namesrv_addr(name_server)
    consumer.start()
    for msg in consumer.pull(topic, expression):
        got(msg)
    consumer.shutdown()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
