//! What a person may do to a node: end actions, let its machines rest, change their slots.

use farmhand_proto::control::machine::State;
use farmhand_proto::control::{
    KillActionRequest, KillActionResponse, Machine, SetMachineRequest, SetMachineResponse,
};
use tonic::{Request, Response, Status};

use super::ControlService;
use super::query::Query;
use crate::execution::{Duty, MachineChange, Target};

impl ControlService {
    pub(super) async fn kill_action(
        &self,
        request: Request<KillActionRequest>,
    ) -> Result<Response<KillActionResponse>, Status> {
        let target = self.target(&request.into_inner().operation).await?;
        let killed = self.scheduler.kill(target).await?;
        tracing::info!(%target, killed, "killed by a person");
        Ok(Response::new(KillActionResponse { killed: u32::try_from(killed).unwrap_or(u32::MAX) }))
    }

    pub(super) async fn set_machine(
        &self,
        request: Request<SetMachineRequest>,
    ) -> Result<Response<SetMachineResponse>, Status> {
        let request = request.into_inner();
        let change = change(&request)?;
        let machine = self.machine(|machine| match request.machine.as_str() {
            "" => machine.is_self,
            name => machine.name == name,
        });
        let unknown = |_| Status::not_found(format!("there is no machine {:?}", request.machine));
        let Machine { name, is_self, .. } = machine.await.map_err(unknown)?;
        if !is_self {
            return Err(elsewhere(&name));
        }
        let state = self.scheduler.set_machine(&name, change).await?;
        let (duty, slots) = (state.duty, state.slots);
        let guest_slots = request.guest_slots;
        if let Some(slots) = guest_slots {
            self.source.lend(usize::try_from(slots).unwrap_or(usize::MAX));
        }
        tracing::info!(machine = name, ?duty, slots, guest_slots, "a person changed a machine");
        let machine = self.machine(|machine| machine.name == name).await?;
        Ok(Response::new(SetMachineResponse { machine: Some(machine) }))
    }

    async fn target(&self, text: &str) -> Result<Target, Status> {
        let query = Query::parse(text)?;
        if let Query::Operation(id) = query {
            return Ok(Target::Operation(id));
        }
        let live = self.source.operations().await;
        self.resolve(&query, &live).await.map(Target::Action)
    }

    async fn machine(&self, is_it: impl Fn(&Machine) -> bool) -> Result<Machine, Status> {
        let found = self.source.status().await.machines.into_iter().find(is_it);
        found.ok_or_else(|| Status::not_found("this machine is no member of the farm (any more)"))
    }
}

/// Every machine is its owner's: its own node tells it what to do.
fn elsewhere(name: &str) -> Status {
    Status::failed_precondition(format!("{name} is steered on {name} alone: run the command there"))
}

fn change(request: &SetMachineRequest) -> Result<MachineChange, Status> {
    let duty = match State::try_from(request.state) {
        Ok(State::Unspecified) => None,
        Ok(State::Active) => Some(Duty::Active),
        Ok(State::Draining) => Some(Duty::Draining),
        Ok(State::Paused) => Some(Duty::Paused),
        Ok(_) | Err(_) => {
            return Err(Status::invalid_argument("a machine can be told to be active, draining or paused"));
        }
    };
    let slots = request.slots.map(|slots| usize::try_from(slots).unwrap_or(usize::MAX));
    Ok(MachineChange { duty, slots })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use farmhand_proto::control::{GetStatusResponse, Operation};
    use tonic::Code;

    use super::super::ControlSource;
    use super::super::testing;
    use super::*;
    use crate::execution::testing::{Farm, ScriptedWorker, request};
    use crate::execution::{OperationId, Stage};

    /// Two machines, of which the first is the one of the node.
    #[derive(Clone, Default)]
    struct TwoMachines {
        /// How often slots were lent.
        lent: Arc<AtomicUsize>,
    }

    #[async_trait]
    impl ControlSource for TwoMachines {
        async fn status(&self) -> GetStatusResponse {
            let machine = Machine { name: "worker".into(), is_self: true, ..Default::default() };
            let cellar = Machine { name: "cellar".into(), ..Default::default() };
            GetStatusResponse { machines: vec![machine, cellar], ..Default::default() }
        }

        async fn operations(&self) -> Vec<Operation> {
            Vec::new()
        }

        fn lend(&self, slots: usize) {
            assert_eq!(slots, 2, "what was asked for");
            self.lent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn service() -> (Farm, Arc<ScriptedWorker>, ControlService, TwoMachines) {
        let (farm, worker) = Farm::with_worker(1);
        let machines = TwoMachines::default();
        let service = ControlService::new(testing::of_farm(machines.clone(), &farm));
        (farm, worker, service, machines)
    }

    async fn kill(service: &ControlService, operation: &str) -> Result<u32, Code> {
        let request = Request::new(KillActionRequest { operation: operation.into() });
        let response = service.kill_action(request).await;
        response.map(|response| response.into_inner().killed).map_err(|status| status.code())
    }

    async fn set(service: &ControlService, request: SetMachineRequest) -> Result<(), Code> {
        service.set_machine(Request::new(request)).await.map(drop).map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_is_killed_by_name_and_by_digest() {
        let (farm, _worker, service, _) = service();
        let action = farm.action(&["wait"]);
        for by_digest in [false, true] {
            let mut watch = farm.scheduler.execute(request(action)).await.unwrap();
            while watch.state().stage != Stage::Executing {
                watch.changed().await;
            }
            let name = if by_digest { action.to_string() } else { watch.operation().id.to_string() };
            assert_eq!(kill(&service, &name).await, Ok(1), "{name}");
            watch.done().await;
            assert_eq!(kill(&service, &name).await, Err(Code::FailedPrecondition), "{name}");
        }
        for (name, code) in [
            ("", Code::InvalidArgument),
            ("nonsense", Code::InvalidArgument),
            (&OperationId::random().to_string(), Code::NotFound),
            (&format!("{}/1", "ab".repeat(32)), Code::NotFound),
            (&"ab".repeat(32), Code::NotFound),
        ] {
            assert_eq!(kill(&service, name).await, Err(code), "{name:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn machines_are_told_and_what_makes_no_sense_is_refused() {
        let (farm, _worker, service, machines) = service();
        let paused = SetMachineRequest { state: State::Paused.into(), ..Default::default() };
        assert_eq!(set(&service, paused).await, Ok(()));
        assert_eq!(farm.scheduler.machines().await[0].duty, Duty::Paused);
        let slots = |machine: &str, slots| SetMachineRequest {
            machine: machine.into(),
            slots: Some(slots),
            ..Default::default()
        };
        let guests = |machine: &str| SetMachineRequest {
            machine: machine.into(),
            guest_slots: Some(2),
            ..Default::default()
        };
        let lent = || machines.lent.load(Ordering::Relaxed);
        assert_eq!(set(&service, guests("")).await, Ok(()));
        assert_eq!(lent(), 1);
        assert_eq!(set(&service, guests("cellar")).await, Err(Code::FailedPrecondition));
        assert_eq!(lent(), 1, "those of another machine are not lent");
        assert_eq!(set(&service, slots("worker", 3)).await, Ok(()));
        let state = &farm.scheduler.machines().await[0];
        assert_eq!((state.slots, state.duty), (3, Duty::Paused), "what is not said stays");
        assert_eq!(set(&service, slots("other", 3)).await, Err(Code::NotFound));
        assert_eq!(set(&service, slots("cellar", 3)).await, Err(Code::FailedPrecondition), "not its node");
        assert_eq!(set(&service, slots("", 1_000_000)).await, Err(Code::InvalidArgument));
        for state in [State::Lost as i32, State::Yielding as i32, 77] {
            let request = SetMachineRequest { state, ..Default::default() };
            assert_eq!(set(&service, request).await, Err(Code::InvalidArgument), "{state}");
        }
    }
}
