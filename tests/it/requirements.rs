//! The table of protocol requirements: row id → the tests that hold it.
//!
//! The ids are those of the requirement groups this project works by: CAP capabilities, DIG digests
//! and instance names, CAS, BS ByteStream, CMP compression, AC action cache, VAL validity of
//! messages, STG staging, RUN running, OUT outputs, ERR errors, EX execution and operations, PRI
//! priorities, META execution metadata, RMD request metadata, NEW newer parts: chunks, inlined output, AST remote
//! assets, LOG log streams, HTTP the cache over plain HTTP. A row that cannot be met stays in the table as
//! [`Open`](Coverage::Open), with the reason.
//!
//! [`every_row_is_covered`] fails when a row is missing, doubled, or names a test that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use Coverage::Tests;

/// Groups and the number of rows in each.
const GROUPS: &[(&str, u32)] = &[
    ("CAP", 14),
    ("DIG", 12),
    ("CAS", 22),
    ("BS", 20),
    ("CMP", 10),
    ("AC", 13),
    ("VAL", 12),
    ("STG", 9),
    ("RUN", 16),
    ("OUT", 20),
    ("ERR", 12),
    ("EX", 19),
    ("PRI", 5),
    ("META", 8),
    ("RMD", 7),
    ("NEW", 13),
    ("AST", 17),
    ("LOG", 9),
    ("HTTP", 12),
];

/// How a row is held.
#[derive(Debug)]
enum Coverage {
    /// By these tests, each `file.rs: function` with the file relative to `tests/it`, or to the root of
    /// the project when it begins with `src/`.
    Tests(&'static [&'static str]),
    /// Not met, for this reason.
    #[allow(dead_code)]
    Open(&'static str),
}

#[rustfmt::skip]
const ROWS: &[(&str, Coverage)] = &[
    ("CAP-01", Tests(&["capabilities.rs: every_instance_answers_without_an_earlier_call"])),
    ("CAP-02", Tests(&["capabilities.rs: a_cache_only_instance_says_so_and_refuses_to_execute"])),
    ("CAP-03", Tests(&["capabilities.rs: versions_span_2_0_and_are_plain"])),
    ("CAP-04", Tests(&["capabilities.rs: each_promised_style_of_action_runs", "capabilities.rs: versions_span_2_0_and_are_plain"])),
    ("CAP-05", Tests(&["capabilities.rs: versions_span_2_0_and_are_plain"])),
    ("CAP-06", Tests(&["capabilities.rs: digest_functions_are_listed_and_consistent"])),
    ("CAP-07", Tests(&["capabilities.rs: digest_functions_are_listed_and_consistent"])),
    ("CAP-08", Tests(&["capabilities.rs: digest_functions_are_listed_and_consistent"])),
    ("CAP-09", Tests(&["capabilities.rs: a_cache_only_instance_says_so_and_refuses_to_execute"])),
    ("CAP-10", Tests(&["capabilities.rs: update_enabled_tells_the_truth"])),
    ("CAP-11", Tests(&["capabilities.rs: a_batch_of_exactly_the_limit_is_taken"])),
    ("CAP-12", Tests(&["capabilities.rs: compressors_are_listed_with_zstd_first_and_work", "compression.rs: every_way_in_can_be_read_every_way_out"])),
    ("CAP-13", Tests(&["compression.rs: every_way_in_can_be_read_every_way_out", "compression.rs: compressors_that_are_not_offered_are_invalid_and_batches_may_mix"])),
    ("CAP-14", Tests(&["capabilities.rs: absolute_symlinks_are_allowed_as_advertised", "capabilities.rs: node_properties_are_those_honoured"])),
    ("DIG-01", Tests(&["digests.rs: malformed_digests_are_invalid_on_every_service"])),
    ("DIG-02", Tests(&["digests.rs: size_is_part_of_the_identity"])),
    ("DIG-03", Tests(&["digests.rs: sizes_below_zero_and_zero_sizes_of_other_hashes"])),
    ("DIG-04", Tests(&["digests.rs: an_unset_function_means_sha256_everywhere"])),
    ("DIG-05", Tests(&["digests.rs: functions_of_equal_length_are_kept_apart", "digests.rs: an_instance_may_have_another_default_function"])),
    ("DIG-06", Tests(&["digests.rs: unsupported_functions_are_refused_by_name"])),
    ("DIG-07", Tests(&["digests.rs: a_result_uses_the_function_of_its_action_throughout"])),
    ("DIG-08", Tests(&["digests.rs: functions_of_equal_length_are_kept_apart"])),
    ("DIG-09", Tests(&["digests.rs: functions_match_their_published_vectors"])),
    ("DIG-10", Tests(&["digests.rs: instance_names_of_any_depth_work_on_every_call"])),
    ("DIG-11", Tests(&["digests.rs: reserved_segments_are_refused_in_the_configuration_and_on_calls"])),
    ("DIG-12", Tests(&["digests.rs: an_unknown_instance_is_one_clear_error_and_results_do_not_leak"])),
    ("CAS-01", Tests(&["cas.rs: find_missing_lists_exactly_the_absent"])),
    ("CAS-02", Tests(&["cas.rs: find_missing_extends_the_life_of_what_is_present"])),
    ("CAS-03", Tests(&["cas.rs: what_is_reported_present_can_be_read_and_half_uploads_are_not", "cas.rs: a_broken_file_is_never_served"])),
    ("CAS-04", Tests(&["cas.rs: two_hundred_thousand_digests_in_one_call"])),
    ("CAS-05", Tests(&["cas.rs: the_empty_blob_is_everywhere_without_upload"])),
    ("CAS-06", Tests(&["cas.rs: batch_entries_succeed_and_fail_apart"])),
    ("CAS-07", Tests(&["cas.rs: batch_entries_succeed_and_fail_apart"])),
    ("CAS-08", Tests(&["cas.rs: batches_over_the_limit_are_invalid"])),
    ("CAS-09", Tests(&["cas.rs: a_full_store_says_so_and_reads_go_on"])),
    ("CAS-10", Tests(&["cas.rs: uploading_again_is_fine"])),
    ("CAS-11", Tests(&["cas.rs: concurrent_uploads_of_one_blob_all_succeed"])),
    ("CAS-12", Tests(&["cas.rs: batch_read_answers_each_digest_with_a_status"])),
    ("CAS-13", Tests(&["cas.rs: batch_read_answers_each_digest_with_a_status"])),
    ("CAS-14", Tests(&["cas.rs: batches_over_the_limit_are_invalid"])),
    ("CAS-15", Tests(&["cas.rs: batch_read_answers_each_digest_with_a_status"])),
    ("CAS-16", Tests(&["cas.rs: get_tree_lists_shared_directories_once"])),
    ("CAS-17", Tests(&["cas.rs: get_tree_of_an_absent_root_and_of_an_absent_child"])),
    ("CAS-18", Tests(&["cas.rs: get_tree_resumes_from_its_tokens"])),
    ("CAS-19", Tests(&["cas.rs: blobs_over_the_configured_size_are_refused_at_once"])),
    ("CAS-20", Tests(&["cas.rs: nothing_unverified_enters_by_any_way"])),
    ("CAS-21", Tests(&["cas.rs: messages_stay_below_the_default_receive_limit", "outputs.rs: a_result_larger_than_a_message_is_refused", "byte_stream.rs: one_message_as_large_as_a_batch"])),
    ("CAS-22", Tests(&["cas.rs: a_short_lease_is_warned_about"])),
    ("BS-01", Tests(&["byte_stream.rs: valid_read_names"])),
    ("BS-02", Tests(&["byte_stream.rs: valid_write_names_with_trailing_metadata"])),
    ("BS-03", Tests(&["byte_stream.rs: malformed_names_are_invalid", "byte_stream.rs: random_names_never_crash_the_node"])),
    ("BS-04", Tests(&["byte_stream.rs: an_absent_blob_is_not_found"])),
    ("BS-05", Tests(&["byte_stream.rs: offsets_and_limits"])),
    ("BS-06", Tests(&["byte_stream.rs: offsets_and_limits"])),
    ("BS-07", Tests(&["byte_stream.rs: reads_resume_anywhere_and_have_no_empty_messages"])),
    ("BS-08", Tests(&["byte_stream.rs: reads_resume_anywhere_and_have_no_empty_messages"])),
    ("BS-09", Tests(&["byte_stream.rs: three_shapes_of_an_upload"])),
    ("BS-10", Tests(&["byte_stream.rs: three_shapes_of_an_upload", "byte_stream.rs: a_differing_later_name_and_a_gap_are_invalid"])),
    ("BS-11", Tests(&["byte_stream.rs: a_differing_later_name_and_a_gap_are_invalid"])),
    ("BS-12", Tests(&["byte_stream.rs: a_message_after_the_last_is_an_error"])),
    ("BS-13", Tests(&["byte_stream.rs: a_cut_upload_continues_where_it_stopped"])),
    ("BS-14", Tests(&["byte_stream.rs: committed_size_is_the_full_size"])),
    ("BS-15", Tests(&["byte_stream.rs: a_present_blob_is_answered_early_and_without_a_broken_stream"])),
    ("BS-16", Tests(&["byte_stream.rs: a_present_blob_is_answered_early_and_without_a_broken_stream"])),
    ("BS-17", Tests(&["byte_stream.rs: wrong_bytes_short_and_long_are_invalid"])),
    ("BS-18", Tests(&["byte_stream.rs: query_of_a_present_blob_is_complete", "byte_stream.rs: a_cut_upload_continues_where_it_stopped"])),
    ("BS-19", Tests(&["byte_stream.rs: one_message_as_large_as_a_batch", "byte_stream.rs: three_shapes_of_an_upload"])),
    ("BS-20", Tests(&["byte_stream.rs: the_empty_blob_shared_uuids_and_the_extra_header"])),
    ("CMP-01", Tests(&["compression.rs: every_way_in_can_be_read_every_way_out"])),
    ("CMP-02", Tests(&["compression.rs: damaged_streams_are_invalid"])),
    ("CMP-03", Tests(&["compression.rs: compressed_reads_begin_anywhere_and_take_no_limit"])),
    ("CMP-04", Tests(&["compression.rs: compressed_reads_begin_anywhere_and_take_no_limit"])),
    ("CMP-05", Tests(&["compression.rs: a_compressed_upload_in_many_messages_and_of_a_present_blob"])),
    ("CMP-06", Tests(&["compression.rs: a_compressed_upload_in_many_messages_and_of_a_present_blob"])),
    ("CMP-07", Tests(&["compression.rs: committed_size_suits_the_client"])),
    ("CMP-08", Tests(&["compression.rs: several_frames_skippable_frames_and_bombs"])),
    ("CMP-09", Tests(&["compression.rs: compressors_that_are_not_offered_are_invalid_and_batches_may_mix"])),
    ("CMP-10", Tests(&["compression.rs: compressors_that_are_not_offered_are_invalid_and_batches_may_mix"])),
    ("AC-01", Tests(&["action_cache.rs: without_an_entry_it_is_not_found"])),
    ("AC-02", Tests(&["action_cache.rs: a_result_is_hidden_when_a_file_deep_in_a_tree_is_gone"])),
    ("AC-03", Tests(&["action_cache.rs: a_hit_extends_the_life_of_all_it_names"])),
    ("AC-04", Tests(&["action_cache.rs: inlining_only_as_asked_and_only_what_fits"])),
    ("AC-05", Tests(&["action_cache.rs: inlining_only_as_asked_and_only_what_fits"])),
    ("AC-06", Tests(&["action_cache.rs: inlining_only_as_asked_and_only_what_fits"])),
    ("AC-07", Tests(&["action_cache.rs: update_stores_returns_and_survives_a_restart"])),
    ("AC-08", Tests(&["action_cache.rs: absent_outputs_are_refused_and_an_absent_action_is_not"])),
    ("AC-09", Tests(&["action_cache.rs: malformed_results_are_invalid", "action_cache.rs: a_tree_that_lacks_a_directory_is_invalid"])),
    ("AC-10", Tests(&["capabilities.rs: update_enabled_tells_the_truth"])),
    ("AC-11", Tests(&["action_cache.rs: the_key_has_salt_and_size_and_function", "digests.rs: an_unknown_instance_is_one_clear_error_and_results_do_not_leak"])),
    ("AC-12", Tests(&["action_cache.rs: failed_and_refused_results_are_never_hits"])),
    ("AC-13", Tests(&["action_cache.rs: failed_and_refused_results_are_never_hits"])),
    ("VAL-01", Tests(&["validity.rs: each_absent_part_is_named"])),
    ("VAL-02", Tests(&["validity.rs: bytes_that_do_not_parse_are_invalid_and_named"])),
    ("VAL-03", Tests(&["validity.rs: arguments_must_name_a_program_and_hold_no_nul"])),
    ("VAL-04", Tests(&["validity.rs: directory_entries_are_single_distinct_names"])),
    ("VAL-05", Tests(&["validity.rs: unsorted_messages_run_as_they_are"])),
    ("VAL-06", Tests(&["validity.rs: output_paths_stay_inside_the_input_root"])),
    ("VAL-07", Tests(&["validity.rs: the_old_fields_are_ignored_beside_output_paths"])),
    ("VAL-08", Tests(&["validity.rs: an_output_directory_inside_another"])),
    ("VAL-09", Tests(&["validity.rs: timeouts_beyond_the_maximum_or_negative_are_invalid"])),
    ("VAL-10", Tests(&["validity.rs: working_directories"])),
    ("VAL-11", Tests(&["validity.rs: node_property_names"])),
    ("VAL-12", Tests(&["validity.rs: environment_names", "capabilities.rs: absolute_symlinks_are_allowed_as_advertised"])),
    ("STG-01", Tests(&["staging.rs: files_have_their_bytes_and_the_executable_bit", "staging.rs: node_properties_of_inputs_are_honoured"])),
    ("STG-02", Tests(&["staging.rs: symlinks_are_made_unchanged"])),
    ("STG-03", Tests(&["staging.rs: empty_directories_and_depth", "staging.rs: a_hundred_thousand_files"])),
    ("STG-04", Tests(&["staging.rs: an_action_cannot_change_the_inputs_of_another"])),
    ("STG-05", Tests(&["staging.rs: one_blob_executable_and_plain_at_once"])),
    ("STG-06", Tests(&["staging.rs: directories_are_writable_and_files_are_not"])),
    ("STG-07", Tests(&["staging.rs: every_run_starts_fresh"])),
    ("STG-08", Tests(&["staging.rs: times_and_owners_are_stable_and_odd_names_survive", "root.rs: ids_modes_and_times_are_those_that_were_asked_for"])),
    ("STG-09", Tests(&["staging.rs: the_input_root_can_be_the_whole_file_system", "staging.rs: buildstream_gets_its_root_without_asking", "staging.rs: a_root_with_a_shell_is_the_whole_file_system_unless_it_says_no", "staging.rs: the_place_of_the_input_root_is_fixed_and_can_be_chosen", "root.rs: links_of_all_kinds_lead_where_they_would_in_a_root_of_its_own", "root.rs: read_only_subtrees_hold_up_to_the_root_and_stay_bit_exact", "root.rs: an_instance_may_say_that_roots_are_file_systems", "root.rs: another_machine_of_the_farm_gives_it_the_same_root"])),
    ("RUN-01", Tests(&["running.rs: programs_are_found_by_path_or_by_name"])),
    ("RUN-02", Tests(&["running.rs: arguments_are_passed_as_given"])),
    ("RUN-03", Tests(&["running.rs: the_environment_is_the_commands_own"])),
    ("RUN-04", Tests(&["validity.rs: working_directories"])),
    ("RUN-05", Tests(&["running.rs: properties_of_action_and_command"])),
    ("RUN-06", Tests(&["running.rs: properties_are_met_or_refused_by_name", "platform.rs: labels_of_a_machine_meet_what_is_asked_for", "platform.rs: who_asks_for_all_cores_has_them_alone", "platform.rs: who_asks_for_memory_waits_for_it"])),
    ("RUN-07", Tests(&["running.rs: unknown_properties_by_policy"])),
    ("RUN-08", Tests(&["running.rs: properties_are_met_or_refused_by_name", "running.rs: the_network_is_a_lonely_loopback_unless_asked_for", "platform.rs: what_cannot_be_had_is_refused_by_name_with_the_reason", "platform.rs: what_clients_send_by_habit_does_no_harm", "platform.rs: names_of_different_clients_have_one_effect", "platform.rs: a_container_is_made_run_and_taken_away", "platform.rs: without_a_tool_images_are_refused_with_the_remedy", "root.rs: what_runs_in_an_action_has_actions_of_its_own_run"])),
    ("RUN-09", Tests(&["running.rs: the_timeout_counts_only_the_run"])),
    ("RUN-10", Tests(&["running.rs: a_timeout_kills_the_whole_tree_and_frees_the_slot"])),
    ("RUN-11", Tests(&["running.rs: exit_codes_and_signals"])),
    ("RUN-12", Tests(&["running.rs: programs_that_cannot_run_are_the_actions_own_fault"])),
    ("RUN-13", Tests(&["running.rs: streams_are_apart_byte_exact_and_stdin_is_empty", "running.rs: a_hundred_megabytes_of_output"])),
    ("RUN-14", Tests(&["running.rs: the_result_is_final_when_the_main_process_ends"])),
    ("RUN-15", Tests(&["running.rs: equal_actions_run_side_by_side_and_see_nobody_else"])),
    ("RUN-16", Tests(&["running.rs: persistent_worker_properties_run_the_command_plainly"])),
    ("OUT-01", Tests(&["outputs.rs: output_paths_take_the_kind_that_is_found"])),
    ("OUT-02", Tests(&["outputs.rs: paths_are_relative_to_the_working_directory_and_exactly_as_asked"])),
    ("OUT-03", Tests(&["outputs.rs: absent_outputs_are_left_out"])),
    ("OUT-04", Tests(&["outputs.rs: parents_exist_and_the_outputs_do_not"])),
    ("OUT-05", Tests(&["outputs.rs: the_empty_path_is_the_whole_working_directory"])),
    ("OUT-06", Tests(&["outputs.rs: the_old_fields_insist_on_their_kind"])),
    ("OUT-07", Tests(&["outputs.rs: the_executable_bit"])),
    ("OUT-08", Tests(&["outputs.rs: trees_are_whole_sorted_and_the_same_for_the_same_content"])),
    ("OUT-09", Tests(&["outputs.rs: trees_are_whole_sorted_and_the_same_for_the_same_content"])),
    ("OUT-10", Tests(&["outputs.rs: an_empty_directory_is_a_tree_of_two_bytes"])),
    ("OUT-11", Tests(&["outputs.rs: trees_are_whole_sorted_and_the_same_for_the_same_content"])),
    ("OUT-12", Tests(&["outputs.rs: output_paths_take_the_kind_that_is_found"])),
    ("OUT-13", Tests(&["outputs.rs: output_paths_take_the_kind_that_is_found"])),
    ("OUT-14", Tests(&["outputs.rs: the_old_fields_insist_on_their_kind", "outputs.rs: old_fields_report_links_of_the_right_kind"])),
    ("OUT-15", Tests(&["outputs.rs: directory_formats"])),
    ("OUT-16", Tests(&["outputs.rs: an_output_directory_serves_as_input_root"])),
    ("OUT-17", Tests(&["outputs.rs: requested_node_properties_are_filled"])),
    ("OUT-18", Tests(&["outputs.rs: everything_is_readable_when_the_result_is_seen"])),
    ("OUT-19", Tests(&["outputs.rs: outputs_of_failed_commands_are_collected"])),
    ("OUT-20", Tests(&["outputs.rs: log_digests_are_always_set_and_nothing_is_inlined_unasked", "outputs.rs: special_files_and_unreadable_modes"])),
    ("ERR-01", Tests(&["errors.rs: faults_before_and_during_the_operation"])),
    ("ERR-02", Tests(&["errors.rs: an_operation_never_has_an_error"])),
    ("ERR-03", Tests(&["errors.rs: all_missing_blobs_are_named_in_one_pass_and_agree_with_find_missing", "errors.rs: many_missing_blobs_are_named_in_a_message_that_clients_take", "errors.rs: subjects_of_other_functions_have_a_function_segment"])),
    ("ERR-04", Tests(&["errors.rs: all_missing_blobs_are_named_in_one_pass_and_agree_with_find_missing"])),
    ("ERR-05", Tests(&["errors.rs: all_missing_blobs_are_named_in_one_pass_and_agree_with_find_missing"])),
    ("ERR-06", Tests(&["errors.rs: a_lost_spawner_is_survived_by_the_action"])),
    ("ERR-07", Tests(&["errors.rs: a_full_queue_says_when_to_come_back"])),
    ("ERR-08", Tests(&["errors.rs: a_timeout_has_the_known_text_and_the_output_so_far"])),
    ("ERR-09", Tests(&["errors.rs: a_failing_command_is_not_an_error", "errors.rs: an_operation_never_has_an_error"])),
    ("ERR-10", Tests(&["errors.rs: impossible_requirements_are_refused_at_once"])),
    ("ERR-11", Tests(&["errors.rs: calls_that_are_not_offered_are_unimplemented", "capabilities.rs: update_enabled_tells_the_truth"])),
    ("ERR-12", Tests(&["errors.rs: failures_are_explained_in_the_message"])),
    ("EX-01", Tests(&["execution.rs: the_first_message_comes_at_once_with_a_name"])),
    ("EX-02", Tests(&["execution.rs: stages_run_forward_and_done_is_last"])),
    ("EX-03", Tests(&["execution.rs: stages_run_forward_and_done_is_last"])),
    ("EX-04", Tests(&["execution.rs: stages_run_forward_and_done_is_last"])),
    ("EX-05", Tests(&["execution.rs: a_stopping_node_ends_streams_as_unavailable"])),
    ("EX-06", Tests(&["execution.rs: state_is_repeated_while_waiting_and_pings_are_welcome"])),
    ("EX-07", Tests(&["execution.rs: ten_waiters_all_see_the_end"])),
    ("EX-08", Tests(&["execution.rs: a_run_outlives_its_caller_and_can_be_waited_for", "execution.rs: an_action_nobody_waits_for_ends_after_the_grace_period", "execution.rs: an_action_nobody_waits_for_gives_its_slot_to_one_with_a_client"])),
    ("EX-09", Tests(&["execution.rs: a_run_outlives_its_caller_and_can_be_waited_for"])),
    ("EX-10", Tests(&["execution.rs: a_run_outlives_its_caller_and_can_be_waited_for"])),
    ("EX-11", Tests(&["execution.rs: unknown_names_are_not_found_also_after_a_restart"])),
    ("EX-12", Tests(&["execution.rs: ten_waiters_all_see_the_end"])),
    ("EX-13", Tests(&["execution.rs: the_second_run_is_a_cached_result_with_the_first_ones_metadata"])),
    ("EX-14", Tests(&["execution.rs: skip_cache_lookup_runs_again_and_heals_the_entry"])),
    ("EX-15", Tests(&["execution.rs: do_not_cache_neither_reads_nor_writes_nor_merges"])),
    ("EX-16", Tests(&["execution.rs: equal_actions_in_flight_run_once", "execution.rs: one_caller_that_leaves_does_not_harm_the_others"])),
    ("EX-17", Tests(&["execution.rs: get_operation_agrees_with_the_stream"])),
    ("EX-18", Tests(&["execution.rs: cancelling_in_each_state"])),
    ("EX-19", Tests(&["execution.rs: operations_can_be_listed_waited_for_and_deleted"])),
    ("PRI-01", Tests(&["priorities.rs: lower_numbers_run_sooner"])),
    ("PRI-02", Tests(&["priorities.rs: ranges_are_listed_and_everything_inside_and_outside_is_taken"])),
    ("PRI-03", Tests(&["priorities.rs: ranges_are_listed_and_everything_inside_and_outside_is_taken"])),
    ("PRI-04", Tests(&["priorities.rs: ranges_are_listed_and_everything_inside_and_outside_is_taken"])),
    ("PRI-05", Tests(&["priorities.rs: one_action_of_another_build_is_not_starved", "priorities.rs: a_merged_action_takes_the_most_urgent_priority"])),
    ("META-01", Tests(&["metadata.rs: runs_have_a_worker_and_a_whole_timeline"])),
    ("META-02", Tests(&["metadata.rs: runs_have_a_worker_and_a_whole_timeline"])),
    ("META-03", Tests(&["metadata.rs: runs_have_a_worker_and_a_whole_timeline"])),
    ("META-04", Tests(&["metadata.rs: the_virtual_duration_is_that_of_the_run"])),
    ("META-05", Tests(&["metadata.rs: cached_results_keep_it_byte_for_byte"])),
    ("META-06", Tests(&["metadata.rs: auxiliary_metadata_has_proper_type_urls", "action_cache.rs: foreign_metadata_passes_unchanged"])),
    ("META-07", Tests(&["metadata.rs: the_worker_is_named_while_the_action_runs"])),
    ("META-08", Tests(&["action_cache.rs: foreign_metadata_passes_unchanged"])),
    ("RMD-01", Tests(&["request_metadata.rs: rubbish_never_fails_a_call"])),
    ("RMD-02", Tests(&["request_metadata.rs: every_name_is_shown_with_target_and_mnemonic"])),
    ("RMD-03", Tests(&["request_metadata.rs: padded_and_joined_values_are_understood", "request_metadata.rs: rubbish_never_fails_a_call"])),
    ("RMD-04", Tests(&["request_metadata.rs: every_name_is_shown_with_target_and_mnemonic"])),
    ("RMD-05", Tests(&["request_metadata.rs: action_ids_may_be_words"])),
    ("RMD-06", Tests(&["request_metadata.rs: results_do_not_depend_on_it"])),
    ("RMD-07", Tests(&["request_metadata.rs: every_name_is_shown_with_target_and_mnemonic", "priorities.rs: one_action_of_another_build_is_not_starved"])),
    ("NEW-01", Tests(&["chunks.rs: a_blob_is_split_into_chunks_that_are_blobs", "src/cas/disk/tests/parts.rs: parts_are_blobs_at_next_to_no_cost_and_outlive_a_restart_and_a_kill"])),
    ("NEW-02", Tests(&["chunks.rs: what_is_absent_is_not_found", "src/cas/disk/tests/parts.rs: a_full_store_says_so"])),
    ("NEW-03", Tests(&["chunks.rs: a_split_extends_the_life_of_the_blob_and_of_its_chunks", "src/cas/disk/tests/parts.rs: a_part_goes_with_its_whole_and_a_use_of_it_keeps_both"])),
    ("NEW-04", Tests(&["chunks.rs: a_splice_is_verified_before_the_blob_exists", "chunks.rs: what_is_absent_is_not_found"])),
    ("NEW-05", Tests(&["chunks.rs: a_registration_listens_to_its_first_message_and_ends_with_the_stream"])),
    ("NEW-06", Tests(&["src/rpc/cas/chunks.rs: a_long_list_comes_in_messages_that_everybody_takes", "chunks.rs: a_blob_is_split_into_chunks_that_are_blobs"])),
    ("NEW-07", Tests(&["chunks.rs: what_is_not_said_is_invalid_and_chunks_are_of_the_function_of_the_blob"])),
    ("NEW-08", Tests(&["chunks.rs: a_spliced_blob_is_a_blob_like_any"])),
    ("NEW-09", Tests(&["chunks.rs: any_chunking_function_may_be_named"])),
    ("NEW-10", Tests(&["chunks.rs: what_is_advertised_goes_together_and_is_how_blobs_are_cut", "src/cas/chunking/tests.rs: fast_cdc_cuts_as_the_paper_does"])),
    ("NEW-11", Tests(&["chunks.rs: what_is_advertised_goes_together_and_is_how_blobs_are_cut", "src/cas/chunking/tests.rs: rep_max_cdc_cuts_as_it_is_defined"])),
    ("NEW-12", Tests(&["chunks.rs: what_is_advertised_goes_together_and_is_how_blobs_are_cut"])),
    ("NEW-13", Tests(&["execution.rs: output_is_inlined_as_asked_for_runs_and_for_hits", "action_cache.rs: inlining_only_as_asked_and_only_what_fits"])),
    ("AST-01", Tests(&["asset.rs: requests_without_uris_are_invalid_on_all_four"])),
    ("AST-02", Tests(&["asset.rs: any_uri_may_answer_and_the_answer_names_it"])),
    ("AST-03", Tests(&["asset/hostile.rs: trouble_at_the_origin_is_told_inside_an_answer", "asset.rs: one_checksum_that_fits_is_enough_and_is_remembered"])),
    ("AST-04", Tests(&["asset.rs: what_is_answered_can_be_read_at_once_by_either_function"])),
    ("AST-05", Tests(&["asset.rs: one_checksum_that_fits_is_enough_and_is_remembered"])),
    ("AST-06", Tests(&["asset.rs: doubled_qualifiers_are_invalid_and_order_does_not_matter"])),
    ("AST-07", Tests(&["asset.rs: qualifiers_that_mean_nothing_are_keys_or_refused_by_name", "asset.rs: pushing_can_be_switched_off"])),
    ("AST-08", Tests(&["asset.rs: headers_reach_their_origin_and_nobody_else", "asset.rs: doubled_qualifiers_are_invalid_and_order_does_not_matter"])),
    ("AST-09", Tests(&["asset.rs: content_that_is_too_old_is_downloaded_again"])),
    ("AST-10", Tests(&["asset.rs: what_is_answered_can_be_read_at_once_by_either_function"])),
    ("AST-11", Tests(&["asset.rs: a_download_is_made_once_and_goes_on_when_nobody_waits"])),
    ("AST-12", Tests(&["asset/git.rs: a_commit_a_branch_and_a_tag_become_trees", "asset/archives.rs: every_kind_of_archive_becomes_a_tree"])),
    ("AST-13", Tests(&["asset/archives.rs: every_kind_of_archive_becomes_a_tree", "asset/archives.rs: archives_that_are_not_safe_or_none_are_refused", "asset/archives.rs: directories_are_pushed_and_fetched_as_buildstream_does"])),
    ("AST-14", Tests(&["asset.rs: what_is_pushed_is_found_by_every_name_until_it_expires", "asset.rs: content_that_is_not_stored_cannot_be_named", "asset.rs: pushing_can_be_switched_off"])),
    ("AST-15", Tests(&["asset.rs: what_is_pushed_is_found_by_every_name_until_it_expires", "asset.rs: qualifiers_that_mean_nothing_are_keys_or_refused_by_name"])),
    ("AST-16", Tests(&["asset.rs: names_are_found_only_while_all_they_refer_to_is_there", "asset.rs: content_that_is_not_stored_cannot_be_named"])),
    ("AST-17", Tests(&["asset/hostile.rs: only_what_the_owner_allows_is_asked"])),
    ("LOG-01", Tests(&["log_streams.rs: a_stream_has_a_name_to_read_and_one_to_write"])),
    ("LOG-02", Tests(&["log_streams.rs: a_stream_has_a_name_to_read_and_one_to_write"])),
    ("LOG-03", Tests(&["log_streams.rs: a_stream_has_a_name_to_read_and_one_to_write"])),
    ("LOG-04", Tests(&["log_streams.rs: three_readers_of_a_slow_writer", "src/rpc/log_stream/tests.rs: many_readers_see_the_same_bytes_wherever_they_join"])),
    ("LOG-05", Tests(&["log_streams.rs: offsets_and_limits"])),
    ("LOG-06", Tests(&["log_streams.rs: writes_are_resumed_and_end", "src/rpc/log_stream/tests.rs: committed_bytes_stand_and_a_finished_stream_takes_no_more"])),
    ("LOG-07", Tests(&["log_streams.rs: an_action_is_read_while_it_prints", "log_streams.rs: an_action_on_another_machine_is_read_while_it_prints"])),
    ("LOG-08", Tests(&["log_streams.rs: streams_of_actions_end_however_these_end", "log_streams.rs: a_lost_machine_ends_its_stream_and_the_next_run_has_another"])),
    ("LOG-09", Tests(&["log_streams.rs: streams_of_actions_are_forgotten_with_their_operation", "log_streams.rs: a_lost_machine_ends_its_stream_and_the_next_run_has_another", "src/rpc/log_stream/tests.rs: streams_end_by_themselves_and_are_forgotten_later", "src/rpc/log_stream/tests.rs: streams_are_bounded_in_number_and_bytes"])),
    ("HTTP-01", Tests(&["http.rs: the_matrix_of_methods_and_paths", "http.rs: the_unix_socket_and_http_2_serve_it_too"])),
    ("HTTP-02", Tests(&["http.rs: what_is_put_is_what_its_name_says_or_not_there", "http.rs: a_body_that_breaks_off_leaves_nothing"])),
    ("HTTP-03", Tests(&["http.rs: lengths_are_required_and_told_and_bodies_are_asked_for", "http.rs: curl_puts_and_gets"])),
    ("HTTP-04", Tests(&["http.rs: a_miss_is_404_with_a_line_of_text"])),
    ("HTTP-05", Tests(&["http.rs: zstd_goes_out_where_it_is_accepted"])),
    ("HTTP-06", Tests(&["http.rs: zstd_comes_in_with_its_size"])),
    ("HTTP-07", Tests(&["http.rs: results_are_checked_and_seen_only_while_they_are_complete", "http.rs: other_bytes_are_kept_as_they_are_unless_they_are_refused"])),
    ("HTTP-08", Tests(&["http.rs: results_as_json"])),
    ("HTTP-09", Tests(&["http.rs: grpc_and_http_have_the_same_store"])),
    ("HTTP-10", Tests(&["http.rs: the_empty_blob_is_there_and_what_does_not_fit_is_told", "http.rs: large_bodies_pass_in_bounded_memory"])),
    ("HTTP-11", Tests(&["http.rs: a_connection_goes_on_after_errors_and_pipelined_requests_are_answered_in_order"])),
    ("HTTP-12", Tests(&["http.rs: status_metrics_and_health"])),
];

#[test]
fn every_row_is_covered() {
    let wanted: BTreeSet<String> = GROUPS
        .iter()
        .flat_map(|(group, rows)| (1..=*rows).map(move |row| format!("{group}-{row:02}")))
        .collect();
    let mut seen = BTreeSet::new();
    for (id, coverage) in ROWS {
        assert!(wanted.contains(*id), "{id} is no row of any group");
        assert!(seen.insert((*id).to_owned()), "{id} stands in the table twice");
        match coverage {
            Tests(tests) => {
                assert!(!tests.is_empty(), "{id} names no test");
                tests.iter().for_each(|test| assert_exists(id, test));
            }
            Coverage::Open(reason) => {
                assert!(reason.len() > 20, "{id} is open without a real reason: {reason:?}")
            }
        }
    }
    let missing: Vec<_> = wanted.difference(&seen).collect();
    assert!(missing.is_empty(), "rows without coverage: {missing:?}");
}

fn assert_exists(id: &str, test: &str) {
    let (file, function) =
        test.split_once(": ").unwrap_or_else(|| panic!("{id}: {test:?} is not `file.rs: function`"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = if file.starts_with("src/") { root.join(file) } else { root.join("tests/it").join(file) };
    let source =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{id}: {}: {error}", path.display()));
    assert!(source.contains(&format!("fn {function}(")), "{id}: {file} has no test {function}");
}
