//! Account settings: kept and shown, with ECS's defaults. One of them is acted upon, by control.

use neargate_control::DUAL_STACK;
use neargate_model::AccountSetting;
use neargate_wire::ecs::{
    DeleteAccountSettingRequest, DeleteAccountSettingResponse, EcsError, ListAccountSettingsRequest,
    ListAccountSettingsResponse, PutAccountSettingDefaultRequest, PutAccountSettingDefaultResponse,
    PutAccountSettingRequest, PutAccountSettingResponse, Setting, SettingType,
};

use super::error::invalid_parameter;
use super::{EcsApi, error, page};
use crate::RequestContext;

/// What holds where nobody has set anything. Long ARNs cannot be turned off any more.
const DEFAULTS: [(&str, &str); 12] = [
    ("serviceLongArnFormat", "enabled"),
    ("taskLongArnFormat", "enabled"),
    ("containerInstanceLongArnFormat", "enabled"),
    ("awsvpcTrunking", "disabled"),
    ("containerInsights", "disabled"),
    // As accounts of Amazon's are recorded to have it.
    (DUAL_STACK, "enabled"),
    ("fargateFIPSMode", "disabled"),
    ("tagResourceAuthorization", "on"),
    ("fargateTaskRetirementWaitPeriod", "7"),
    ("guardDutyActivate", "off"),
    ("defaultLogDriverMode", "non-blocking"),
    ("fargateEventWindows", "disabled"),
];

/// The values that a setting may have.
fn allowed(name: &str) -> &'static [&'static str] {
    match name {
        "fargateTaskRetirementWaitPeriod" => &["0", "7", "14"],
        "defaultLogDriverMode" => &["blocking", "non-blocking"],
        "containerInsights" => &["enabled", "disabled", "enhanced", "on", "off"],
        _ => &["enabled", "disabled", "on", "off"],
    }
}

fn check(name: &str, value: &str) -> Result<(), EcsError> {
    if name == "guardDutyActivate" {
        return Err(invalid_parameter("guardDutyActivate is managed and cannot be changed."));
    }
    if allowed(name).contains(&value) {
        return Ok(());
    }
    let message = format!("Invalid value {value:?} for {name}: use one of {}.", allowed(name).join(", "));
    Err(invalid_parameter(message))
}

fn to_wire(setting: AccountSetting) -> Setting {
    let kind = if setting.name == "guardDutyActivate" { SettingType::AwsManaged } else { SettingType::User };
    Setting {
        name: Some(setting.name.as_str().into()),
        value: Some(setting.value),
        principal_arn: Some(setting.principal),
        r#type: Some(kind),
    }
}

async fn put(api: &EcsApi, cx: &RequestContext, setting: AccountSetting) -> Result<Setting, EcsError> {
    check(&setting.name, &setting.value)?;
    api.control.put_setting(&cx.scope, &setting).await.map_err(|error| error::setting(&error))?;
    Ok(to_wire(setting))
}

pub(super) async fn put_account_setting(
    api: &EcsApi,
    cx: &RequestContext,
    input: PutAccountSettingRequest,
) -> Result<PutAccountSettingResponse, EcsError> {
    let principal = input.principal_arn.unwrap_or_else(|| cx.principal.clone());
    let setting = AccountSetting { name: input.name.to_string(), value: input.value, principal };
    Ok(PutAccountSettingResponse { setting: Some(put(api, cx, setting).await?) })
}

pub(super) async fn put_account_setting_default(
    api: &EcsApi,
    cx: &RequestContext,
    input: PutAccountSettingDefaultRequest,
) -> Result<PutAccountSettingDefaultResponse, EcsError> {
    let setting =
        AccountSetting { name: input.name.to_string(), value: input.value, principal: cx.root_arn() };
    Ok(PutAccountSettingDefaultResponse { setting: Some(put(api, cx, setting).await?) })
}

pub(super) async fn delete_account_setting(
    api: &EcsApi,
    cx: &RequestContext,
    input: DeleteAccountSettingRequest,
) -> Result<DeleteAccountSettingResponse, EcsError> {
    let principal = input.principal_arn.unwrap_or_else(|| cx.principal.clone());
    let name = input.name.to_string();
    let deleted = api.control.delete_setting(&cx.scope, &principal, &name).await;
    let deleted = deleted.map_err(|error| error::setting(&error))?;
    let setting = deleted.unwrap_or(AccountSetting { name, value: String::new(), principal });
    Ok(DeleteAccountSettingResponse { setting: Some(to_wire(setting)) })
}

pub(super) async fn list_account_settings(
    api: &EcsApi,
    cx: &RequestContext,
    input: ListAccountSettingsRequest,
) -> Result<ListAccountSettingsResponse, EcsError> {
    let principal = input.principal_arn.unwrap_or_else(|| cx.principal.clone());
    let own = api.control.list_settings(&cx.scope, &principal).await;
    let own = own.map_err(|error| error::setting(&error))?;
    let mut settings = own;
    if input.effective_settings == Some(true) {
        let root = api.control.list_settings(&cx.scope, &cx.root_arn()).await;
        let root = root.map_err(|error| error::setting(&error))?;
        let built_in = DEFAULTS.iter().map(|(name, value)| AccountSetting {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
            principal: principal.clone(),
        });
        for fallback in root.into_iter().chain(built_in) {
            if !settings.iter().any(|setting| setting.name == fallback.name) {
                settings.push(AccountSetting { principal: principal.clone(), ..fallback });
            }
        }
        settings.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let name = input.name.map(|name| name.to_string());
    settings.retain(|setting| name.as_ref().is_none_or(|name| setting.name == *name));
    settings.retain(|setting| input.value.as_ref().is_none_or(|value| setting.value == *value));
    // This operation alone takes at most 10 results a page (API reference).
    let max_results = Some(input.max_results.unwrap_or(10).min(10));
    let (page, next_token) =
        page::cut(settings, |setting| setting.name.clone(), input.next_token.as_deref(), max_results)?;
    Ok(ListAccountSettingsResponse { settings: Some(page.into_iter().map(to_wire).collect()), next_token })
}
