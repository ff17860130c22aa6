//! `GetSettings`: the settings the node runs with.

use farmhand_proto::control::{GetSettingsRequest, GetSettingsResponse, Setting};
use tonic::{Request, Response, Status};

use super::ControlService;

impl ControlService {
    pub(super) async fn get_settings(
        &self,
        _: Request<GetSettingsRequest>,
    ) -> Result<Response<GetSettingsResponse>, Status> {
        let config = &self.config;
        let settings = config.settings().into_iter().map(|setting| Setting {
            name: setting.name,
            value: setting.value,
            is_default: setting.is_default,
        });
        let files = config.files.iter().map(|file| file.display().to_string()).collect();
        Ok(Response::new(GetSettingsResponse { settings: settings.collect(), files }))
    }
}
