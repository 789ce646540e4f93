// An unmodified RocketMQ client for Node (npm `ali-ons`), one sub-command a feature.
//
// Prints a line for each message: `SENT status id queue offset body` and
// `GOT topic id queue offset times at_ms tags keys number body`, with `-` for what is not there.
'use strict';

const { Consumer, Message, Producer } = require('ali-ons');

// The client's warnings belong with its errors: standard output is for what the test reads.
const logger = { info() {}, debug() {}, warn: console.error, error: console.error };

/** A body as it is printed: a long one by its length and checksum. */
function shown(body) {
  const text = body.toString();
  if (text.length <= 100) return text;
  return `${text.length}/${crc32(body).toString(16).padStart(8, '0')}`;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return (crc ^ -1) >>> 0;
}

/** Text of 64 letters in no order: it compresses, but not below three quarters. */
function longBody(length) {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  let text = '';
  for (let state = 1; text.length < length;) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    text += letters[state >> 16 & 63];
  }
  return text;
}

function message(topic, who, number) {
  const made = new Message(topic, ['TagA', 'TagB'][number % 2], `${who} ${number}`);
  made.keys = [`${who}-${number}`];
  made.properties.number = String(number);
  return made;
}

async function producing(nameServer, options, use) {
  const producer = new Producer({
    httpclient: {}, logger, nameSrv: nameServer, producerGroup: 'node_producer',
    sendMsgTimeout: 20000, ...options,
  });
  await producer.ready();
  await use(producer);
  // A client that has a default producer never ends by itself.
  process.exit(0);
}

async function sendOne(producer, made, body) {
  const sent = await producer.send(made);
  console.log('SENT', sent.sendStatus, sent.msgId, sent.messageQueue.queueId, sent.queueOffset,
    body || made.body.toString());
}

const commands = {
  send: (nameServer, topic, who, count) => producing(nameServer, {}, async producer => {
    for (let n = 0; n < count; n++) await sendOne(producer, message(topic, who, n));
  }),

  // All are under way at once.
  async: (nameServer, topic, who, count) => producing(nameServer, {}, async producer => {
    await Promise.all(Array.from({ length: Number(count) },
      (_, n) => sendOne(producer, message(topic, who, n))));
  }),

  // A sharding key decides the queue.
  sharded: (nameServer, topic, who, count) => producing(nameServer, {}, async producer => {
    for (let n = 0; n < count; n++) {
      const made = message(topic, who, n);
      made.shardingKey = `shard-${n % 3}`;
      await sendOne(producer, made);
    }
  }),

  delayed: (nameServer, topic, who, level) => producing(nameServer, {}, async producer => {
    const made = message(topic, who, 0);
    made.delayTimeLevel = Number(level);
    const beganMs = Date.now();
    await sendOne(producer, made, `${who} ${beganMs}`);
  }),

  // One long message, then a short one over the same connection.
  body: (nameServer, topic, who, length) => producing(nameServer, {}, async producer => {
    const body = Buffer.from(longBody(Number(length)));
    const made = message(topic, who, 0);
    made.body = body;
    try {
      await sendOne(producer, made, shown(body));
    } catch (refused) {
      console.log('REFUSED', refused.code, refused.message);
    }
    await sendOne(producer, message(topic, who, 1));
  }),

  // As `send`, in a namespace.
  namespaced: (nameServer, topic, who, count) =>
    producing(nameServer, { namespace: 'space' }, async producer => {
      for (let n = 0; n < count; n++) await sendOne(producer, message(topic, who, n));
    }),

  // Takes all; `later` and `throw` in a body fail the first time.
  // `mode` is sql, broadcast or namespaced.
  listen: async (nameServer, consumerGroup, topic, expression = '*', mode = '') => {
    const consumer = new Consumer({
      httpclient: {}, logger, nameSrv: nameServer, consumerGroup,
      isBroadcast: mode === 'broadcast', namespace: mode === 'namespaced' ? 'space' : '',
      consumeFromWhere: 'CONSUME_FROM_FIRST_OFFSET', rebalanceInterval: 1000,
    });
    consumer.on('error', error => console.error(error));
    const wanted = mode === 'sql' ? { expressionType: 'SQL92', subString: expression } : expression;
    consumer.subscribe(topic, wanted, async msg => {
      const body = shown(msg.body);
      console.log('GOT', msg.topic, msg.msgId, msg.queueId, msg.queueOffset, msg.reconsumeTimes,
        Date.now(), msg.tags || '-', msg.keys || '-', msg.properties.number || '-', body);
      if (msg.reconsumeTimes > 0) return;
      if (body.startsWith('later')) return Consumer.ACTION_RETRY;
      if (body.startsWith('throw')) throw new Error('the listener failed');
    });
    await consumer.ready();
    console.log('STARTED');
  },
};

const [command, ...words] = process.argv.slice(2);
commands[command](...words).catch(error => {
  console.error(error);
  process.exit(1);
});
