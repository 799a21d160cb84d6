//! The queueing discipline fq, which holds packets until the delivery time that they bear (`net/sched/sch_fq.c`).

use futures::StreamExt;
use multipath_common::playout::{MAX_SPREAD_US, MAX_WAIT_US};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};
use nix::libc;

use super::{Link, Underlay, UnderlayError, is_errno};

/// Attributes of its options (`linux/pkt_sched.h`).
const TCA_FQ_PLIMIT: u16 = 1;
const TCA_FQ_FLOW_PLIMIT: u16 = 2;
const TCA_FQ_ORPHAN_MASK: u16 = 10;
const TCA_FQ_HORIZON: u16 = 14;
const TCA_FQ_HORIZON_DROP: u16 = 15;

/// The rate at which it can hold packets for the longest delay, bits a second.
const RATE: u64 = 600_000_000;
/// Bits of a packet at that rate.
const PACKET_BITS: u64 = 8 * 1500;
/// Packets that it holds at most: 30,000, about 70 MB of the kernel's memory. What comes beyond that is dropped.
const LIMIT: u32 = (RATE * MAX_SPREAD_US as u64 / 1_000_000 / PACKET_BITS) as u32;

impl Underlay {
    /// Makes fq the queueing discipline of a link, or corrects the one that is there, which keeps what it holds. `false`
    /// where the kernel has none.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn queue_by_time(&self, link: &Link) -> Result<bool, UnderlayError> {
        match self.replace_discipline(link).await {
            Ok(()) => Ok(true),
            Err(error) if is_errno(&error, &[libc::ENOENT, libc::EOPNOTSUPP]) => Ok(false),
            Err(error) => {
                Err(UnderlayError::request(format!("make fq the queueing discipline of {}", link.name), &error))
            }
        }
    }

    async fn replace_discipline(&self, link: &Link) -> Result<(), rtnetlink::Error> {
        let mut message = TcMessage::with_index(link.index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind("fq".to_owned()), TcAttribute::Options(options())];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

fn options() -> Vec<TcOption> {
    let number = |kind, value: u32| TcOption::Other(DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
    vec![
        number(TCA_FQ_PLIMIT, LIMIT),
        // One flow may be all that there is: the default is 100 packets.
        number(TCA_FQ_FLOW_PLIMIT, LIMIT),
        // Packets are told apart by the whole hash that the programs give them: those of one flow are sorted by time, and
        // flows that share one wait for each other.
        number(TCA_FQ_ORPHAN_MASK, u32::MAX),
        number(TCA_FQ_HORIZON, 2 * MAX_WAIT_US.unsigned_abs()),
        TcOption::Other(DefaultNla::new(TCA_FQ_HORIZON_DROP, vec![0])),
    ]
}
