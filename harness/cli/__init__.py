"""The command line: one file a command. Imports happen inside commands, so that help is instant."""

from harness.cli.audit_command import audit
from harness.cli.check_command import check
from harness.cli.diagnose_command import diagnose
from harness.cli.diff_command import diff
from harness.cli.group import cli
from harness.cli.list_command import list_
from harness.cli.port_command import port
from harness.cli.record_command import record
from harness.cli.report_command import report
from harness.cli.show_command import show
from harness.cli.verify_command import verify

__all__ = ["cli"]

for command in (audit, check, diagnose, diff, list_, port, record, report, show, verify):
    cli.add_command(command)
