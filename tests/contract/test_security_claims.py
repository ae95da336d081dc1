"""Every row of the table in SECURITY.md is shown by tests, which are named here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHOWN_BY = {
    "calls the tools": {
        "test_execution": [
            "test_after_a_completed_run_only_a_rehearsed_apply_may_follow",
            "test_a_second_execution_is_refused_while_one_is_under_way",
            "test_a_refusal_by_the_policy_names_every_problem_and_writes_nothing",
            "test_nothing_runs_under_approvals_that_were_given_for_another_action",
        ],
    },
    "calls the tools, where a trust policy demands signatures": {
        "test_identity": [
            "test_a_command_that_is_not_the_signed_one_is_refused_by_its_own_code_and_leaves_nothing",
            "test_a_request_for_another_action_than_the_signed_one_is_refused",
            "test_an_envelope_is_good_for_one_approval",
            "test_an_envelope_that_was_held_back_dies_with_its_signers_next_revocation",
        ],
        "test_trust": [
            "test_a_signed_approval_makes_an_action_executable_that_a_name_does_not",
            "test_what_is_not_believed_is_refused_with_its_own_code",
        ],
    },
    (
        "approves under a second spelling of a name: other case, another composition of the same letters, Cyrillic or Greek ones, "
        "spaces that do not show"
    ): {
        "test_likeness": [
            "test_nobody_approves_twice_by_another_spelling",
            "test_nobody_approves_the_own_request_by_another_spelling",
            "test_status_and_verification_remark_approvers_that_look_the_same",
        ],
        "test_trust_file": ["test_actors_that_look_the_same_are_refused"],
    },
    "edits the file or forges a bundle, where a trust policy demands signatures": {
        "test_identity": [
            "test_a_stored_event_that_contradicts_itself_ends_the_replay",
            "test_a_stored_approval_for_another_decision_is_history_and_does_not_count",
            "test_a_stored_approval_that_repeats_an_earlier_statement_does_not_count",
            "test_an_imported_approval_that_nobody_signed_makes_nothing_executable",
            "test_a_trust_that_wants_signatures_refuses_names_when_they_are_given_and_when_they_count",
        ],
        "test_trust": [
            "test_a_stored_approval_without_its_signature_is_a_name_and_does_not_count",
            "test_a_key_that_was_swapped_for_one_with_the_same_id_signs_nothing",
        ],
    },
    "imports bundles: invented approvals; older exports, over what was done since": {
        "test_past": [
            "test_an_imported_approval_that_nobody_signed_is_shown_and_makes_nothing_executable",
            "test_no_way_of_importing_makes_local_approvals_out_of_told_ones",
            "test_an_older_export_does_not_bring_back_a_signed_approval_that_was_used",
            "test_an_older_export_does_not_bring_back_a_signed_approval_that_was_revoked",
            "test_a_deleted_decision_is_not_forgotten",
        ],
    },
    (
        "makes up envelopes and trust policies: other spellings, duplicate keys, more signatures, huge or deep ones, "
        "keys of small order, signatures made out of others"
    ): {
        "test_identity": ["test_an_envelope_has_one_spelling_and_everything_else_is_refused"],
        "test_trust": ["test_a_signature_whose_scalar_was_not_reduced_is_refused"],
        "test_trust_file": ["test_a_mistake_is_named_with_its_place", "test_any_data_is_understood_or_refused_by_name"],
        "test_ed25519": ["test_a_second_signature_cannot_be_made_out_of_a_first", "test_a_key_of_small_order_is_none_and_verifies_nothing"],
    },
    "steals an actor's key": {
        "test_trust": ["test_what_is_not_believed_is_refused_with_its_own_code"],
    },
    "reads outputs, errors (with the variables of their frames), logs, databases and evidence": {
        "test_attestation_secrets": [
            "test_a_seed_that_cannot_be_read_is_not_repeated",
            "test_a_file_that_is_refused_is_not_repeated",
            "test_a_program_that_tells_its_secret_is_not_repeated",
            "test_batches_leave_no_secret_whatever_fails",
            "test_the_worker_leaves_no_secret_whatever_fails",
            "test_exchanges_over_http_hold_no_secret",
        ],
        "test_keys": ["test_no_error_and_no_repr_holds_a_secret"],
        "test_cli_keys": ["test_the_private_part_is_shown_nowhere", "test_no_secret_reaches_a_store_or_what_is_exported_from_it"],
    },
    "uses SQLite on the file, leaving tables and triggers as they are": {
        "test_store": [
            "test_another_program_can_neither_change_nor_delete_nor_replace_a_row",
            "test_no_row_can_be_replaced_through_a_hidden_key",
        ],
        "test_tamper_store": ["test_a_well_formed_approval_that_another_program_adds_is_found_with_the_triggers_in_place"],
    },
    "the same, or edits the file in any way: drops or rewrites triggers, indexes and tables, changes bytes": {
        "test_tamper_store": [
            "test_a_weaker_schema_is_a_finding",
            "test_a_trigger_of_others_on_our_tables_is_a_finding",
            "test_what_the_file_swallows_is_not_acknowledged",
            "test_a_revocation_that_the_file_swallows_fails_aloud",
            "test_a_store_that_lost_a_table_cannot_pass",
            "test_no_cell_can_be_changed_without_a_finding_that_names_its_row",
            "test_every_table_of_a_store_is_in_the_matrix",
            "test_what_passes_beside_the_facts_is_the_seal_of_a_tile_and_a_smaller_import",
            "test_every_character_of_a_checkpoint_is_of_its_form_its_text_or_its_signatures",
            "test_no_row_can_be_dropped_without_a_finding",
            "test_the_last_checkpoints_and_cached_hashes_can_be_dropped_and_no_import",
            "test_swapping_the_payloads_of_any_two_events_is_found",
            "test_renumbering_the_events_of_a_decision_is_found",
            "test_an_event_that_was_added_past_the_log_is_found",
            "test_bytes_that_are_no_text_are_a_finding_and_no_exception",
            "test_a_smaller_number_of_imported_events_passes",
        ],
        "test_tamper_index": [
            "test_an_event_that_an_index_hides_is_a_finding_of_the_whole_store",
            "test_a_chain_that_was_continued_past_a_hidden_event_is_named",
            "test_a_decision_looked_at_alone_and_an_execution_cannot_see_what_an_index_hides",
        ],
        "test_execution": [
            "test_nothing_is_run_on_a_history_that_somebody_edited",
            "test_a_row_that_is_chained_but_not_in_the_log_runs_nothing",
            "test_nothing_is_run_when_the_last_events_of_the_store_were_removed",
            "test_nothing_is_run_when_the_last_event_of_the_store_is_hidden_by_an_index",
            "test_an_execution_cannot_know_of_newest_events_that_were_removed_when_others_followed",
            "test_an_execution_cannot_know_of_newest_events_that_were_removed_with_their_entries_in_the_log",
            "test_an_execution_does_not_look_at_what_the_chain_does_not_cover",
            "test_an_execution_does_not_look_whether_earlier_generations_are_what_was_recorded",
            "test_an_execution_does_not_look_at_the_triggers",
        ],
    },
    "connects to the PostgreSQL store as a member of `nexus_writer`, or as its owner": {
        "test_postgres_store": [
            "test_a_writer_can_do_everything_that_tools_do_and_only_insert_and_read",
            "test_nobody_can_change_or_delete_a_row_nor_the_owner_nor_a_replica",
            "test_what_guards_the_rows_is_verified_with_them",
            "test_no_leaf_goes_anywhere_but_to_the_end",
        ],
        "test_postgres_commands": ["test_no_output_has_the_password"],
    },
    "edits the file and recomputes every hash": {
        "test_tamper_recomputed": ["test_no_cell_can_be_changed_past_an_older_checkpoint_but_those_outside"],
        "test_tamper_store": [
            "test_a_log_whose_end_was_cut_off_verifies_but_not_against_an_older_root",
            "test_a_store_that_was_rewritten_whole_verifies_but_has_another_root",
        ],
    },
    "holds the log's key, and shows two people two histories": {
        "test_cli_cases": ["test_two_checkpoints_of_one_size_prove_a_split_view"],
        "test_attacks": ["test_a_split_view_fails_the_log_and_says_what_it_is"],
    },
    "owns the host: its files, its processes and the keys on it": {
        "test_attacks": [
            "test_invented_approvals_pass_authorization_and_never_signatures",
            "test_every_edit_of_an_event_with_all_digests_recomputed_fails_the_log",
        ],
        "test_tamper_recomputed": ["test_no_cell_can_be_changed_past_an_older_checkpoint_but_those_outside"],
    },
    "forges a case file: invented, missing, late, expired or repeated approvals, another action, another run, another log": {
        "test_attacks": [
            "test_a_forged_history_fails_authorization",
            "test_invented_approvals_pass_authorization_and_never_signatures",
            "test_an_embedded_run_that_was_replaced_fails_execution",
            "test_every_single_edit_of_a_case_file_is_caught",
            "test_every_edit_of_an_event_with_all_digests_recomputed_fails_the_log",
            "test_a_forged_log_part_fails_the_log",
        ],
        "test_allowed_events": ["test_a_history_that_no_store_writes_fails_by_name", "test_what_another_check_notices_is_left_to_it"],
    },
    "edits a narrative, or the queue, receipts, bodies or memos that it is made from": {
        "test_attestation_narrative": [
            "test_every_byte_of_a_narrative_file_is_covered",
            "test_every_leaf_of_a_narrative_is_covered",
            "test_every_byte_of_a_stored_receipt_is_covered",
            "test_every_byte_of_a_stored_intent_is_covered",
            "test_bodies_are_compared_with_their_digests_when_asked",
            "test_a_report_made_up_with_a_right_digest_contradicts_itself",
        ],
        "test_attestation_every_byte": [
            "test_every_byte_of_a_receipt_and_its_intent_is_covered_where_it_is_proven",
            "test_every_byte_of_the_memo_of_a_batch_is_covered",
            "test_every_byte_of_the_memo_of_one_intent_is_covered",
        ],
        "test_cli_attestation": ["test_the_command_for_every_file_recomputes_the_digest_of_a_narrative"],
    },
    "runs a time-stamp authority of its own, or has a token of another batch, package, request or certificate": {
        "test_attestation_tsa": [
            "test_every_byte_of_a_token_is_covered",
            "test_a_self_made_authority_fails_the_chain_whatever_its_names_are",
            "test_whoever_has_a_certificate_for_something_else_is_no_authority",
            "test_another_certificate_for_the_same_key_fails_the_signed_id",
            "test_the_answer_to_another_request_is_refused",
        ],
        "test_attestation_stamp_proofs": [
            "test_every_byte_of_a_time_stamp_proof_is_covered",
            "test_a_time_stamp_of_nobody_who_is_believed_is_incomplete",
            "test_a_time_stamp_for_another_package_fails",
            "test_the_local_witness_is_never_more_than_incomplete",
        ],
    },
    "edits a bundle or an audit package": {
        "test_tamper_package": [
            "test_changing_any_leaf_fails_exactly_the_checks_of_the_table",
            "test_removing_any_member_fails_exactly_the_checks_of_the_table",
            "test_a_member_that_said_nothing_but_its_default_may_be_left_out",
            "test_adding_a_member_to_any_object_fails_exactly_the_checks_of_the_table",
            "test_nothing_can_be_added_to_a_bundle",
            "test_two_members_of_a_list_cannot_be_swapped",
        ],
        "test_router_audit_package": ["test_what_can_be_added_to_a_package_and_removed_from_it_is_listed"],
        "test_evidence": ["test_each_check_of_a_bundle_notices_its_part", "test_reordered_events_are_noticed"],
    },
    "rebuilds a package consistently": {
        "test_evidence": ["test_a_bundle_that_was_rebuilt_consistently_passes", "test_options_reach_the_checks_of_a_package"],
        "test_cli_commands": ["test_another_binding_digest_than_expected_fails_by_name"],
    },
    "reaches the HTTP server of somebody else": {
        "test_mcp_tokens": [
            "test_nobody_but_the_issuer_can_sign",
            "test_a_token_that_says_less_or_something_else_is_refused",
            "test_without_tokens_nobody_else_can_reach_it",
            "test_tools_that_the_token_does_not_allow_are_neither_listed_nor_done",
            "test_a_stream_ends_in_good_order_when_the_token_that_opened_it_expires",
        ],
    },
    "is a model behind a server with `--actor-source config` or `token`": {
        "test_mcp_tokens": [
            "test_the_actor_is_the_subject_of_the_token_and_the_event_says_so",
            "test_nobody_approves_what_the_same_token_holder_requested",
        ],
        "test_mcp_humans": [
            "test_a_configured_actor_acts_whatever_the_model_writes_and_does_not_approve_itself",
            "test_a_self_approval_that_came_in_elsewhere_does_not_count",
            "test_everything_but_a_clear_yes_leaves_the_decision_as_it_was",
        ],
    },
    "sends malformed input: values, documents, files, pipes and devices in place of files": {
        "test_tool": ["test_nonsense_in_any_argument_gives_a_result_and_a_refusal_leaves_nothing"],
        "test_evidence": ["test_no_malformed_document_raises", "test_no_text_raises"],
        "test_files": ["test_what_is_no_regular_file_is_refused_at_once"],
        "test_cli_commands": ["test_what_never_ends_is_no_file", "test_a_file_to_verify_must_be_a_file_of_bearable_size"],
    },
    (
        "calls the tools over MCP: malformed messages, unknown arguments, huge values, a thousand calls at once, cancelled ones, "
        "and leaves at any moment"
    ): {
        "test_mcp_protocol": ["test_a_misspelt_argument_is_refused_with_its_path", "test_wrong_arguments_are_named_by_path_and_rule"],
        "test_mcp_malformed": [
            "test_a_malformed_call_is_refused_by_name_and_in_a_few_words",
            "test_a_thousand_calls_in_flight_are_all_answered_and_all_on_the_record",
            "test_a_client_that_cancels_every_call_leaves_whole_decisions_only",
            "test_every_line_that_is_no_message_is_answered_and_the_next_one_works",
            "test_a_body_with_two_meanings_is_refused",
            "test_a_header_that_decides_something_is_there_once",
            "test_a_body_that_is_no_message_is_answered_without_details",
            "test_a_client_that_dies_with_calls_in_flight_leaves_whole_decisions",
            "test_http_clients_that_die_before_their_answers_leave_whole_decisions",
        ],
        "test_mcp_sessions": [
            "test_of_many_sessions_that_execute_one_decision_one_does",
            "test_a_run_goes_on_to_its_end_when_its_client_is_gone",
        ],
    },
    (
        "asks the MCP server for tasks: guesses and alters ids, has those of somebody else or of another store, cancels and answers at the "
        "wrong moment"
    ): {
        "test_mcp_tasks": [
            "test_a_handle_that_was_not_given_by_this_server_to_this_caller_is_unknown",
            "test_in_a_store_that_took_the_place_of_another_its_tasks_are_unknown",
            "test_a_task_belongs_to_the_one_whose_token_began_it",
            "test_of_approval_and_cancellation_the_first_stays_whoever_looks_when",
            "test_a_task_that_is_cancelled_while_its_answer_is_recorded_has_one_end",
            "test_an_answer_is_good_for_the_question_as_it_was_shown",
            "test_after_a_kill_an_execution_is_said_to_have_an_unknown_outcome_and_stays_so",
        ],
        "test_mcp_task_folder": [
            "test_a_handle_is_worth_nothing_to_others_at_other_stores_or_after_its_time",
            "test_every_changed_character_makes_it_unknown",
        ],
    },
    (
        "writes a goal, plan or comment that is shown on an approval card, or has a ticket that was used, guessed, or made for another "
        "question"
    ): {
        "test_mcp_cards": [
            "test_a_person_answers_in_a_browser",
            "test_the_document_allows_its_own_style_and_script_and_nothing_else",
            "test_a_ticket_is_good_for_one_answer_to_the_question_that_was_shown",
            "test_a_guessed_ticket_is_none",
            "test_no_number_of_cards_pushes_out_those_of_other_callers",
        ],
    },
    "shows the user's browser a page, with the server on HTTP": {
        "test_mcp_lifecycle": ["test_a_web_page_cannot_reach_the_server"],
        "test_mcp_page": [
            "test_nothing_but_the_form_of_this_page_answers",
            "test_looking_answers_nothing_and_tells_browsers_to_be_careful",
        ],
    },
    "controls names, goals, comments": {
        "test_markdown": ["test_nothing_that_controls_a_terminal_or_ends_a_line_is_left", "test_no_markup_is_left"],
        "test_inspection": ["test_users_cannot_forge_lines_markup_or_terminal_commands"],
        "test_cli_commands": ["test_text_of_users_cannot_touch_the_terminal"],
    },
    "kills the process at any instant": {
        "test_store": ["test_a_process_that_is_killed_while_it_writes_loses_nothing_that_it_had_acknowledged"],
        "test_races": ["test_a_killed_writer_loses_nothing_that_it_acknowledged_and_leaves_nothing_half_done"],
        "test_cli": ["test_an_execute_that_was_killed_is_executing_until_it_is_recovered"],
        "test_router_faults": [
            "test_a_run_whose_process_was_killed_in_a_call_is_closed_with_an_unknown_outcome",
            "test_a_run_whose_process_lives_is_left_alone",
        ],
        "test_router_subprocess_adapter": ["test_when_we_are_killed_by_force_the_tools_end_and_their_arguments_are_gone"],
        "test_router_mcp_adapter": ["test_when_we_are_killed_by_force_the_server_ends_with_its_children"],
    },
    "edits the record of a run, or exchanges it for another one": {
        "test_flight_checks": [
            "test_each_published_manipulation_fails_exactly_these_checks",
            "test_what_makes_no_sense_is_found_though_every_digest_fits",
            "test_whatever_stands_anywhere_in_a_record_is_judged_and_never_raises",
        ],
        "test_router_audit_package": ["test_nothing_but_a_provenance_can_be_added_to_a_record_of_our_own_router"],
        "test_router_tampered_events": ["test_every_removed_doubled_or_exchanged_event_is_noticed_though_every_digest_fits"],
    },
    "is a tool: hangs, floods, answers nonsense, puts control characters into its errors": {
        "test_router_faults": [
            "test_a_message_is_recorded_as_one_printable_line_of_bounded_length",
            "test_the_time_for_a_run_limits_its_calls_and_its_steps",
        ],
        "test_router_engine": ["test_a_bug_in_an_adapter_fails_the_run_and_keeps_its_id"],
        "test_router_subprocess_adapter": [
            "test_a_process_that_left_the_group_and_its_parents_ends_with_the_call",
            "test_a_process_that_hides_its_environment_as_well_ends_with_the_call",
        ],
    },
    "controls the ledger server": {
        "test_attestation_xrpl_submission": [
            "test_only_the_stored_bytes_are_ever_sent_again",
            "test_a_dead_transaction_is_signed_anew_with_the_same_sequence",
            "test_two_servers_are_asked_before_a_transaction_is_dead",
            "test_one_server_of_two_that_lies_confirms_what_is_on_no_ledger_only_where_one_answer_is_enough",
            "test_two_servers_of_five_that_lie_have_nothing_witnessed_twice",
            "test_two_servers_of_five_that_lie_confirm_nothing_that_is_on_no_ledger",
            "test_a_sequence_that_looks_taken_is_looked_at_twice",
            "test_a_server_that_says_validated_of_something_else_is_not_believed",
            "test_an_answer_that_does_not_fit_confirms_nothing",
            "test_a_tec_takes_the_fee_and_witnesses_nothing",
            "test_the_fee_follows_the_market_up_to_a_limit",
            "test_a_queue_belongs_to_one_network",
            "test_what_a_late_worker_learned_of_a_dead_attempt_closes_nothing_over_the_one_that_is_alive",
            "test_no_slot_is_closed_while_an_attempt_of_it_is_alive",
            "test_the_network_that_one_server_alone_says_is_not_stored",
        ],
        "test_attestation_witness_file": ["test_servers_of_another_network_than_the_file_says_are_refused"],
        "test_cli_witness": ["test_servers_of_another_network_sign_nothing"],
        "test_attestation_xrpl_exactly_once": [
            "test_one_server_that_fails_and_workers_that_die",
            "test_two_servers_of_which_one_may_lie",
            "test_servers_that_keep_few_ledgers_and_lag_while_fewer_than_half_lie_of_the_account_and_somebody_else_uses_it",
        ],
        "test_attestation_xrpl_proof": [
            "test_every_byte_of_a_proof_counts_and_the_check_that_refuses_it_has_a_name",
            "test_without_pins_a_proof_shows_a_tree_at_most",
            "test_another_publisher_and_another_account_are_refused",
        ],
    },
    "forges a proof of a ledger transaction": {
        "test_attestation_xrpl_proof": [
            "test_every_byte_of_a_proof_counts_and_the_check_that_refuses_it_has_a_name",
            "test_another_publisher_and_another_account_are_refused",
            "test_a_transaction_that_only_cost_its_fee_witnesses_nothing",
            "test_another_memo_and_another_batch_size_are_not_those_of_the_receipt",
            "test_four_of_five_validators_are_enough_and_three_are_not",
            "test_what_is_no_good_vote_does_not_count",
            "test_a_list_holds_from_its_time_on_until_it_expires_whatever_the_time_is_today",
            "test_a_list_counts_only_with_the_signatures_of_its_publisher",
            "test_headers_lead_from_the_transaction_to_the_ledger_that_was_voted_for",
            "test_without_pins_a_proof_shows_a_tree_at_most",
            "test_nonsense_anywhere_in_a_proof_is_refused_by_a_check_with_a_name",
            "test_what_is_too_long_or_too_deep_is_refused_before_it_is_decoded",
        ],
        "test_attestation_xrpl_capture": ["test_a_server_with_a_ledger_of_its_own_gets_no_further_than_the_tree"],
        "test_cli_proofs": ["test_the_proof_of_another_package_is_none_for_this_one"],
    },
    "sends messages to a FlexiFlow component whose application gave its settings": {
        "test_flexiflow": ["test_a_message_may_name_the_intent_but_neither_the_signer_nor_what_is_settled"],
        "test_attestation_worker": ["test_two_workers_at_once_submit_an_intent_once"],
    },
    "races with many processes": {
        "test_races": [
            "test_every_one_of_eight_approvers_is_counted_once",
            "test_of_eight_executors_exactly_one_runs_the_router",
            "test_eight_writers_append_all_their_events",
        ],
    },
}
"""Attacker as the table has it; file below tests/; tests."""


def attackers() -> list[str]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = text[text.index("| Attacker |") :].partition("\n\n")[0].splitlines()
    return [line.split(" | ")[0].removeprefix("| ") for line in table[2:]]


def test_every_attacker_of_the_table_has_tests_and_no_other() -> None:
    assert attackers() == list(SHOWN_BY)


@pytest.mark.parametrize(("file", "name"), [(file, name) for row in SHOWN_BY.values() for file, names in row.items() for name in names])
def test_what_shows_a_claim_exists(file: str, name: str) -> None:
    source = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
    assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{file}.py has no {name}: name the test that shows the claim now"
