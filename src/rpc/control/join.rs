//! `Invite`, `AnswerNewcomer` and `Join`: how a machine comes into a farm.

use std::time::SystemTime;

use farmhand_proto::control::invitation_end::Reason;
use farmhand_proto::control::{
    AnswerNewcomerRequest, AnswerNewcomerResponse, Entrance as WireEntrance, Invitation, InvitationEnd,
    InviteRequest, InviteResponse, JoinPending, JoinRequest, JoinResponse, JoinTrying, Joined,
    Newcomer as WireNewcomer, OpenInvitation, WrongCode, invite_response, join_response,
};
use farmhand_proto::time::timestamp;
use futures_util::stream::{self, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ControlService, Replies};
use crate::peer::trust::join::{self, Code, End, Entrance, Invited, LIFETIME, Newcomer, News, Step};

impl ControlService {
    pub(super) async fn invite(
        &self,
        request: Request<InviteRequest>,
    ) -> Result<Response<Replies<InviteResponse>>, Status> {
        let invited = self.farm.joining.invite(request.into_inner().ask).await?;
        let first = invite_response::News::Invitation(invitation(&invited));
        let news = stream::unfold(invited, |mut invited| async move {
            let news = invited.news.recv().await?;
            Some((told(news), invited))
        });
        let all = stream::iter([first]).chain(news);
        Ok(Response::new(Box::pin(all.map(|news| Ok(InviteResponse { news: Some(news) })))))
    }

    pub(super) fn answer_newcomer(
        &self,
        request: &Request<AnswerNewcomerRequest>,
    ) -> Result<Response<AnswerNewcomerResponse>, Status> {
        let AnswerNewcomerRequest { number, accept } = *request.get_ref();
        self.farm.joining.answer(number, accept)?;
        Ok(Response::new(AnswerNewcomerResponse {}))
    }

    pub(super) fn join(
        &self,
        request: Request<JoinRequest>,
    ) -> Result<Response<Replies<JoinResponse>>, Status> {
        let JoinRequest { code, from, leave } = request.into_inner();
        let code: Code = code.parse::<Code>()?;
        let from = Some(from).filter(|from| !from.is_empty());
        let steps = self.farm.joining.join(join::Request { code, from, leave });
        let steps = ReceiverStream::new(steps).map(|step| match step {
            Ok(step) => Ok(JoinResponse { news: Some(step_to_wire(step)) }),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(Box::pin(steps)))
    }
}

fn invitation(invited: &Invited) -> Invitation {
    Invitation {
        code: invited.code.text().to_owned(),
        addresses: invited.addresses.iter().map(ToString::to_string).collect(),
        farm: invited.farm.clone(),
        expires: Some(timestamp(SystemTime::now() + LIFETIME)),
    }
}

/// What stands open to newcomers, as it is told.
pub(super) fn entrance_to_wire(entrance: &Entrance) -> WireEntrance {
    let invitation = entrance.invitation.as_ref().map(|open| OpenInvitation {
        addresses: open.addresses.iter().map(ToString::to_string).collect(),
        farm: open.farm.clone(),
        asks: open.asks,
        expires: Some(timestamp(open.expires)),
        wrong_codes: open.wrong_codes(),
        tries_left: open.tries_left,
    });
    let waiting = entrance.waiting.iter().cloned().map(newcomer_to_wire).collect();
    WireEntrance { invitation, waiting }
}

fn told(news: News) -> invite_response::News {
    match news {
        News::WrongCode { from, left } => {
            invite_response::News::WrongCode(WrongCode { from: from.to_string(), left })
        }
        News::Pending(newcomer) => invite_response::News::Pending(newcomer_to_wire(newcomer)),
        News::Gone(newcomer) => invite_response::News::Gone(newcomer_to_wire(newcomer)),
        News::End(end) => invite_response::News::End(end_to_wire(end)),
    }
}

fn end_to_wire(end: End) -> InvitationEnd {
    let (reason, newcomer) = match end {
        End::Joined(newcomer) => (Reason::Joined, Some(newcomer)),
        End::Unsure(newcomer) => (Reason::Unsure, Some(newcomer)),
        End::Refused(newcomer) => (Reason::Refused, Some(newcomer)),
        End::Expired => (Reason::Expired, None),
        End::Tries => (Reason::Tries, None),
        End::Stopped => (Reason::Stopped, None),
    };
    InvitationEnd { reason: reason.into(), newcomer: newcomer.map(newcomer_to_wire) }
}

fn newcomer_to_wire(newcomer: Newcomer) -> WireNewcomer {
    WireNewcomer {
        number: newcomer.number,
        name: newcomer.name,
        machine_id: const_hex::encode(newcomer.machine.bytes()),
        check_words: newcomer.check_words,
    }
}

fn step_to_wire(step: Step) -> join_response::News {
    match step {
        Step::Trying(address) => join_response::News::Trying(JoinTrying { address: address.to_string() }),
        Step::Proven(words) => join_response::News::CheckWords(words),
        Step::Pending => join_response::News::Pending(JoinPending {}),
        Step::Joined(tag) => join_response::News::Joined(Joined { farm: tag.farm(), tag: tag.to_string() }),
    }
}
