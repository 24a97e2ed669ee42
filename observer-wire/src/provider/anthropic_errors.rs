//! Classes by which anthropic-sdk-python 2.x tells errors apart beyond their status
//! (2.12 `_error_classes.py`, `ERROR_CLASSES`).

/// Statuses and the values of `error.details.error_code` that have a class of their own.
const CODES: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "already_member",
            "available_tools_limit_exceeded",
            "cannot_invite_emails_with_unverified_domains",
            "cannot_remove_last_member",
            "claude_code_key_creator_not_member",
            "claude_code_version_too_old",
            "cmek_key_disabled",
            "cmek_key_network_blocked",
            "compaction_block_ambiguous",
            "compaction_block_misplaced",
            "compaction_content_mismatch",
            "compaction_incomplete_turn",
            "compaction_nothing_to_summarize",
            "compaction_signature_invalid",
            "compaction_too_many_tool_references",
            "compaction_tool_changes_mismatch",
            "email_domain_not_allowed",
            "external_key_in_workspace_policy",
            "external_key_validation_failed",
            "external_key_validation_timed_out",
            "file_not_downloadable",
            "image_dimensions_too_large",
            "invite_already_exists",
            "key_profile_mismatch",
            "org_api_key_limit_exceeded",
            "org_member_limit_exceeded",
            "organization_on_hold",
            "organization_type_not_supported",
            "parent_organization_required",
            "rbac_group_grants_owner_access",
            "rbac_group_owner_access_unconfirmed",
            "request_body_encoding_invalid",
            "request_body_encoding_unsupported",
            "storage_quota_exceeded",
            "thread_already_continued",
            "thread_continue_in_flight",
            "thread_fingerprint_mismatch",
            "thread_unsupported_request",
            "tool_name_conflict",
            "tool_reference_unresolved",
            "user_profile_not_found",
            "user_profile_required",
            "workspace_api_key_limit_exceeded",
            "workspace_member_limit_exceeded",
            "workspace_policy_violation",
        ],
    ),
    (
        402,
        &[
            "linked_organization_billing_unavailable",
            "linked_organization_spend_limit_reached",
        ],
    ),
    (
        403,
        &[
            "sandbox_egress_restricted",
            "user_profile_billing_not_authorized",
            "user_profile_not_billable",
        ],
    ),
    (
        404,
        &["file_expired", "rbac_role_not_found", "thread_not_found"],
    ),
    (
        409,
        &[
            "concurrent_membership_change",
            "external_key_changed",
            "skill_read_blocked_undecryptable",
        ],
    ),
    (413, &["request_body_too_large_after_decoding"]),
    (
        429,
        &[
            "contract_spend_limit_reached",
            "enforced_spend_limit_reached",
            "ramp_limit_exceeded",
        ],
    ),
    (503, &["cmek_context_unavailable", "cmek_key_unreachable"]),
    (529, &["compaction_unavailable"]),
];

/// The same for classes whose names begin with `Beta`.
const BETA_CODES: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "bundle_attachment_not_supported",
            "bundle_on_call",
            "cannot_sign_out_primary_owner",
            "cannot_sign_out_self",
            "cmek_feature_unsupported",
            "environment_archived",
            "invalid_config_type_change",
            "invalid_metadata",
            "organization_not_enrolled_in_beta",
            "rbac_group_order_limit_exceeded",
            "request_body_timeout",
            "scan_failed",
            "settings_document_limit_exceeded",
            "settings_history_limit_exceeded",
            "slack_channel_set_up_settings_refused",
            "unsupported_charset",
        ],
    ),
    (
        403,
        &[
            "api_key_scope_missing",
            "cannot_sign_out_managed_member",
            "cannot_sign_out_membership_admin",
            "cannot_sign_out_owner",
            "cannot_sign_out_privileged_member",
            "claude_tag_writes_not_enabled",
            "compliance_configuration_restricted",
            "environment_create_disabled",
            "environment_update_disabled",
            "organization_level_scoped_api_key_required",
            "spend_limits_admin_api_writes_not_enabled",
        ],
    ),
    (
        404,
        &[
            "environment_not_found",
            "rbac_group_managed_settings_not_found",
            "rbac_group_not_found",
            "slack_channel_set_up_environment_not_found",
        ],
    ),
    (
        409,
        &[
            "plugin_name_taken",
            "scan_pending",
            "skill_name_taken",
            "slack_channel_set_up_settings_conflict",
        ],
    ),
    (412, &["heartbeat_precondition_failed"]),
    (503, &["registration_pending"]),
];

/// Words of a code that are written in capitals in the name of its class.
const ACRONYMS: &[&str] = &["api", "cmek", "rbac"];

/// The class for a status and a code; `None` if the status alone decides.
pub(super) fn class(status: u16, code: &str) -> Option<String> {
    let listed = |codes: &[(u16, &[&str])]| {
        codes
            .iter()
            .any(|(known, codes)| *known == status && codes.contains(&code))
    };
    let prefix = match () {
        () if listed(CODES) => "",
        () if listed(BETA_CODES) => "Beta",
        () => return None,
    };
    let name: String = code
        .split('_')
        .map(|word| {
            if ACRONYMS.contains(&word) {
                word.to_ascii_uppercase()
            } else {
                capitalized(word)
            }
        })
        .collect();
    Some(format!("{prefix}{name}Error"))
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(chars)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_classes_of_their_own() {
        for (status, code, expected) in [
            (
                400,
                "image_dimensions_too_large",
                "ImageDimensionsTooLargeError",
            ),
            (
                400,
                "cmek_feature_unsupported",
                "BetaCMEKFeatureUnsupportedError",
            ),
            (
                400,
                "org_api_key_limit_exceeded",
                "OrgAPIKeyLimitExceededError",
            ),
            (
                413,
                "request_body_too_large_after_decoding",
                "RequestBodyTooLargeAfterDecodingError",
            ),
            (529, "compaction_unavailable", "CompactionUnavailableError"),
        ] {
            assert_eq!(class(status, code).as_deref(), Some(expected));
        }
        assert_eq!(class(429, "image_dimensions_too_large"), None);
        assert_eq!(class(400, "unheard_of"), None);
    }
}
