//! 400: the broker deals queues out to a group's members, for clients that leave it to the broker.
//! 401, 402: whether a group pulls a topic or pops it, kept in messageRequestMode.json. Not here:
//! the allocation itself (`mq_core::client::allocate`).
//!
//! Rules: protocol section 2.13. No assignment (`null`) tells a client to keep what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mq_core::client::allocate;
use mq_core::error::Error;
use mq_core::names::{self, MessageQueue};
use mq_core::protocol::body::{
    MessageModel, MessageQueueAssignment, MessageRequestMode, QueryAssignmentRequest,
    QueryAssignmentResponse, SetMessageRequestModeRequest, TopicRouteData, from_json, to_json,
};
use mq_core::protocol::code::{RequestCode, ResponseCode};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::RouteInfoRequest;
use mq_core::remote::{Remote, RemoteOptions};
use mq_core::server::Peer;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::debug;

use crate::broker::Broker;
use crate::catalog::{perm, topic_unknown};
use crate::dispatch::{Answer, Handled};
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::disk::Disk;
use crate::store::table_file::TableFile;

/// Settings that may be kept: peers choose the names, though only of topics and groups that exist.
const MODES_MAX: usize = 100_000;
const ROUTE_TIMEOUT: Duration = Duration::from_secs(3);

/// How groups get the messages of a topic, where that was set.
#[derive(Debug)]
pub(crate) struct RequestModes {
    modes: Mutex<Modes>,
    file: TableFile,
}

/// As messageRequestMode.json has it: topic to group to setting.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Modes {
    #[serde(rename = "messageRequestModeMap")]
    by_topic: BTreeMap<String, BTreeMap<String, SetMessageRequestModeRequest>>,
}

impl RequestModes {
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StoreError> {
        let file = TableFile::new(disk, path);
        Ok(Self { modes: Mutex::new(file.load()?.unwrap_or_default()), file })
    }

    fn of(&self, topic: &str, group: &str) -> SetMessageRequestModeRequest {
        let modes = self.modes();
        modes.by_topic.get(topic).and_then(|groups| groups.get(group)).cloned().unwrap_or_default()
    }

    fn set(&self, setting: SetMessageRequestModeRequest) -> Result<(), Refusal> {
        let mut modes = self.modes();
        if modes.by_topic.values().map(BTreeMap::len).sum::<usize>() >= MODES_MAX {
            let remark = format!("{MODES_MAX} request modes are set: no more are kept");
            return Err(Refusal::new(ResponseCode::SystemError, remark));
        }
        let mut changed = modes.clone();
        let groups = changed.by_topic.entry(setting.topic.clone()).or_default();
        groups.insert(setting.consumer_group.clone(), setting);
        self.file.save(&changed)?;
        *modes = changed;
        Ok(())
    }

    fn modes(&self) -> MutexGuard<'_, Modes> {
        self.modes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 401.
pub(crate) fn set_mode(broker: &Arc<Broker>, request: &Command) -> Handled {
    let setting: SetMessageRequestModeRequest = from_json(&request.body)?;
    if setting.topic.starts_with(names::RETRY_PREFIX) {
        let remark = "the request mode of a retry topic cannot be set";
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    broker.catalog.topic(&setting.topic).ok_or_else(|| topic_unknown(&setting.topic))?;
    broker.catalog.group(&setting.consumer_group)?;
    if setting.mode == MessageRequestMode::Unknown {
        let remark = "the request mode is neither PULL nor POP";
        return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    }
    broker.request_modes.set(setting)?;
    Ok(Answer::Now(Command::success(request)))
}

/// 402.
pub(crate) fn all_modes(broker: &Arc<Broker>, request: &Command) -> Handled {
    let body = to_json(&*broker.request_modes.modes());
    Ok(Answer::Now(Command::success(request).body(body)))
}

/// 400.
pub(crate) fn query(broker: &Arc<Broker>, peer: &Arc<Peer>, request: &Command) -> Handled {
    let question: QueryAssignmentRequest = from_json(&request.body)?;
    let (broker, peer, answer) = (Arc::clone(broker), Arc::clone(peer), Command::success(request));
    Ok(Answer::Later(Box::pin(async move {
        let mode = broker.request_modes.of(&question.topic, &question.consumer_group);
        let queues = match readable(&broker, &peer, &question.topic).await {
            Ok(Some(queues)) => assigned(&broker, &question, &mode, &queues),
            Ok(None) => None,
            Err(failed) => {
                debug!(%failed, question.topic, "no assignment: the route is not known");
                None
            }
        };
        let assignment = |message_queue| MessageQueueAssignment { message_queue, mode: mode.mode };
        let assignments = queues.map(|queues| queues.into_iter().map(assignment).collect());
        answer.body(to_json(&QueryAssignmentResponse { message_queue_assignments: assignments }))
    })))
}

/// The queues that fall to the asking member.
fn assigned(
    broker: &Broker,
    question: &QueryAssignmentRequest,
    mode: &SetMessageRequestModeRequest,
    queues: &[MessageQueue],
) -> Option<BTreeSet<MessageQueue>> {
    if question.message_model == MessageModel::Broadcasting {
        return Some(queues.iter().cloned().collect());
    }
    let members = broker.clients.client_ids(&question.consumer_group);
    if members.is_empty() {
        return None;
    }
    let me = question.client_id.as_str();
    Some(match mode.mode {
        MessageRequestMode::Pull | MessageRequestMode::Unknown => allocate(queues, &members, me),
        MessageRequestMode::Pop => to_pop(queues, &members, me, mode.pop_share_queue_num),
    })
}

/// Popping members may share queues: all of them all queues, unless the setting says that each has
/// its own and those of so many who follow.
fn to_pop(
    queues: &[MessageQueue],
    members: &[String],
    me: &str,
    share: i32,
) -> BTreeSet<MessageQueue> {
    let share = usize::try_from(share).unwrap_or(0);
    if share == 0 || share >= members.len() - 1 {
        let any = |queue: &MessageQueue| MessageQueue { queue_id: -1, ..queue.clone() };
        return queues.iter().map(any).collect();
    }
    let Some(index) = members.iter().position(|member| member == me) else {
        return BTreeSet::new();
    };
    if members.len() > queues.len() {
        let sorted: BTreeSet<&MessageQueue> = queues.iter().collect();
        return sorted
            .iter()
            .cycle()
            .nth(index)
            .map(|queue| (*queue).clone())
            .into_iter()
            .collect();
    }
    let following = members.iter().cycle().skip(index).take(share + 1);
    following.flat_map(|member| allocate(queues, members, member)).collect()
}

/// All queues of a topic that can be read, at whichever broker; nothing when it has no route.
async fn readable(
    broker: &Broker,
    peer: &Peer,
    topic: &str,
) -> Result<Option<Vec<MessageQueue>>, Error> {
    let header = RouteInfoRequest { topic, accept_standard_json_only: Some(true) };
    let request = Command::with(RequestCode::GetRouteinfoByTopic, &header);
    let answer = match broker.name_server_answer(peer, &request) {
        Some(answer) => answer,
        None => ask_name_servers(broker, request).await?,
    };
    if answer.response_code() != ResponseCode::Success {
        return Ok(None);
    }
    let route: TopicRouteData = from_json(&answer.body)
        .map_err(|error| Error::Refused { code: answer.code, remark: error.to_string() })?;
    let queues = route.queue_datas.iter().filter(|data| data.perm & perm::READ != 0);
    let queues = queues.flat_map(|data| {
        (0..data.read_queue_nums).map(|id| MessageQueue::new(topic, data.broker_name.as_str(), id))
    });
    Ok(Some(queues.collect()))
}

/// The first answer. Asked every 20 s by a member: a connection of its own is cheap enough.
async fn ask_name_servers(broker: &Broker, request: Command) -> Result<Command, Error> {
    let mut failed = Error::Config("this broker has no name server to ask".to_owned());
    for server in &broker.config.namesrv_addr {
        let (inbound, _unread) = mpsc::channel(1);
        let asked = async {
            let remote = Remote::connect(server, &RemoteOptions::default(), inbound).await?;
            remote.call(request.clone(), ROUTE_TIMEOUT).await
        };
        match asked.await {
            Ok(answer) => return Ok(answer),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        (0..count).map(|id| MessageQueue::new("t", "b", id)).collect()
    }

    fn ids(of: &BTreeSet<MessageQueue>) -> Vec<i32> {
        of.iter().map(|queue| queue.queue_id).collect()
    }

    #[test]
    fn popping_members_share_as_the_setting_says() {
        let members: Vec<String> = (0..4).map(|n| format!("m{n}")).collect();
        assert_eq!(ids(&to_pop(&queues(8), &members, "m1", 0)), [-1]);
        assert_eq!(ids(&to_pop(&queues(8), &members, "m1", 3)), [-1]);
        assert_eq!(ids(&to_pop(&queues(8), &members, "m1", 1)), [2, 3, 4, 5]);
        assert_eq!(ids(&to_pop(&queues(8), &members, "m3", 1)), [0, 1, 6, 7]);
        assert_eq!(ids(&to_pop(&queues(2), &members, "m3", 1)), [1]);
        assert!(to_pop(&queues(8), &members, "stranger", 1).is_empty());
    }
}
