"""The command line. Imports happen inside commands, so that help is instant."""

from harness.cli.audit_command import audit
from harness.cli.check_command import check
from harness.cli.diagnose_command import diagnose
from harness.cli.diff_command import diff
from harness.cli.golden_commands import list_, show, verify
from harness.cli.group import cli
from harness.cli.port_command import port
from harness.cli.record_command import record
from harness.cli.report_command import report

__all__ = ["cli"]

for command in (audit, check, diagnose, diff, list_, port, record, report, show, verify):
    cli.add_command(command)
