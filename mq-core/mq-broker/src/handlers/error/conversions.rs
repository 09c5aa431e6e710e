//! The code of each error that comes from below.

use mq_protocol::batch::BatchError;
use mq_protocol::body::BodyError;
use mq_protocol::codes::response;
use mq_protocol::header::HeaderError;
use mq_protocol::pop::HandleError;
use mq_protocol::recall::NotAHandle;
use mq_protocol::topic::NameError;
use mq_store::{AppendError, DiskError, ReadError};
use txn_coordinator::{EndError, HalfError, ParkedError};

use super::Refusal;
use crate::assignment::ModeError;
use crate::clients::HeartbeatError;
use crate::config_update::UpdateError;
use crate::groups::GroupError;
use crate::offsets::TooManyOffsets;
use crate::selection::FilterError;
use crate::timers::TimerRefusal;
use crate::topics::TopicError;

impl From<HandleError> for Refusal {
    fn from(error: HandleError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<TooManyOffsets> for Refusal {
    fn from(error: TooManyOffsets) -> Self {
        Self::new(response::SERVICE_NOT_AVAILABLE, error.to_string())
    }
}

impl From<ModeError> for Refusal {
    fn from(error: ModeError) -> Self {
        Self::new(response::SERVICE_NOT_AVAILABLE, error.to_string())
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        Self::new(response::SUBSCRIPTION_PARSE_FAILED, error.to_string())
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        Self::illegal(error.to_string())
    }
}

impl From<HalfError> for Refusal {
    fn from(error: HalfError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<ParkedError> for Refusal {
    fn from(error: ParkedError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<TimerRefusal> for Refusal {
    fn from(error: TimerRefusal) -> Self {
        let code = match &error {
            // As Apache says it.
            TimerRefusal::Off | TimerRefusal::SlotFull { .. } => response::SYSTEM_ERROR,
            TimerRefusal::Malformed(_) | TimerRefusal::TooFar { .. } | TimerRefusal::TooLate => {
                response::MESSAGE_ILLEGAL
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<NotAHandle> for Refusal {
    fn from(error: NotAHandle) -> Self {
        Self::new(response::ILLEGAL_OPERATION, error.to_string())
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        let code = match &error {
            AppendError::Encode { .. } | AppendError::GroupTooLarge { .. } | AppendError::TopicName { .. } => {
                response::MESSAGE_ILLEGAL
            }
            AppendError::Disk(_) | AppendError::Poisoned(_) | AppendError::Closed => response::SERVICE_NOT_AVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self::new(response::SYSTEM_ERROR, error.to_string())
    }
}

impl From<EndError> for Refusal {
    fn from(error: EndError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<TopicError> for Refusal {
    fn from(error: TopicError) -> Self {
        let code = match &error {
            TopicError::NotExist(_) => response::TOPIC_NOT_EXIST,
            TopicError::TooMany | TopicError::TableTooLarge { .. } | TopicError::Save(_) => {
                response::SERVICE_NOT_AVAILABLE
            }
            _ => response::INVALID_PARAMETER,
        };
        Self::new(code, error.to_string())
    }
}

impl From<UpdateError> for Refusal {
    fn from(error: UpdateError) -> Self {
        let code = match &error {
            UpdateError::Forbidden(_) => response::NO_PERMISSION,
            UpdateError::Value(_) | UpdateError::Unknown(_) | UpdateError::TooLarge(_) => response::INVALID_PARAMETER,
            UpdateError::Save { .. } | UpdateError::Topics(_) => response::SERVICE_NOT_AVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Self {
        let code = match &error {
            GroupError::NotExist(_) => response::SUBSCRIPTION_GROUP_NOT_EXIST,
            GroupError::TooMany | GroupError::Save(_) => response::SERVICE_NOT_AVAILABLE,
            GroupError::Name(_) | GroupError::RetryQueues { .. } | GroupError::Attribute { .. } => {
                response::INVALID_PARAMETER
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<HeartbeatError> for Refusal {
    fn from(error: HeartbeatError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self::new(response::SYSTEM_ERROR, error.to_string())
    }
}
