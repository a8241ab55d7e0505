"""Commands of the ledger: `hedgerow ledger verify | heads | prove | export | role-key | cap-change | migrate`."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from governance.errors import ConfigError, LedgerError
from governance.options import AsJson, Project
from governance.settings import load_settings

if TYPE_CHECKING:
    from governance.ledger import Ledger
    from governance.verify.findings import Finding
    from governance.verify.verification import Verification

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Verify, prove and steer the ledger.")


@app.command()
def verify(
    project: Project = Path(),
    heads: Annotated[
        list[Path] | None, typer.Option("--heads", help="More published heads, e.g. a witness's copy; repeatable.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="The public key (PEM) as you got it; by default the project's own.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Re-derive every balance, leaf, root, signature and hash, and name what is wrong; exit code 1 if anything is."""
    from governance.heads import HEADS_FILE, PUBLIC_KEY_FILE
    from governance.verify.heads import read_public_key
    from governance.verify.verification import read_source
    from governance.verify.verification import verify as verify_all

    settings = load_settings(project)
    key_path = key if key is not None else settings.state_dir / PUBLIC_KEY_FILE
    if settings.ledger.url is None and not settings.ledger_path.is_file():
        raise LedgerError(f"{settings.ledger_path}: there is no ledger yet; the first 'hedgerow run' makes it")
    try:
        public_key = read_public_key(key_path)
    except (OSError, ValueError):
        raise ConfigError(f"{key_path}: not a ledger's public key (PEM); pass --key FILE") from None
    own = [settings.state_dir / HEADS_FILE, *(folder / HEADS_FILE for folder in settings.ledger.witnesses)]
    if settings.ledger.url is None:
        source = read_source(settings.ledger_path)
    else:
        from governance.ledger import open_ledger

        with open_ledger(settings) as ledger:
            source = ledger.source()
    result = verify_all(
        source,
        key=public_key,
        head_files=[*own, *(heads or [])],
        releases=settings.releases_dir,
        roles={role.name: role.public_key for role in settings.roles},
    )
    if json:
        typer.echo(json_module.dumps(result.to_json(), sort_keys=True))
    else:
        _show(result, len(own) + len(heads or []))
    raise typer.Exit(0 if result.holds else 1)


def _show(result: Verification, files: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    _show_findings(result.findings)
    verdict = Text("the ledger holds", "bold green") if result.holds else Text("the ledger does not hold", "bold red")
    console.print(
        verdict,
        Text(
            f"{result.entries} entries, {result.heads} signed heads in {files} file(s), "
            f"{result.releases} releases as committed"
        ),
        sep="  ",
    )
    console.print(Text.assemble(("root  ", "bold"), result.root), soft_wrap=True)
    console.print(Text.assemble(("key   ", "bold"), result.key), soft_wrap=True)


def _show_findings(findings: Iterable[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    from governance.verify.findings import Severity

    console = Console()
    for finding in findings:
        style = "bold red" if finding.severity is Severity.FAILURE else "yellow"
        line = Text.assemble((str(finding.problem), style), f"  {finding.subject}: {finding.message}")
        console.print(line, soft_wrap=True)


@app.command()
def heads(project: Project = Path(), json: AsJson = False) -> None:
    """Show the newest signed head, where heads are published, and the public key to verify them with."""
    from governance.keys import public_key_pem
    from governance.ledger import open_ledger
    from governance.verify.heads import fingerprint

    with open_ledger(load_settings(project)) as ledger:
        head = ledger.publish_head()
        if head is None:
            raise LedgerError(f"{ledger.name}: no entries yet; the first 'hedgerow run' makes them")
        key, files = ledger.public_key(), [str(path) for path in ledger.head_files]
    if json:
        document = {"head": head.to_json(), "files": files, "public_key": public_key_pem(key).decode()}
        typer.echo(json_module.dumps(document, sort_keys=True))
        return
    typer.echo(f"size   {head.size}\nroot   {head.root}\nat     {head.at}\nkey    {fingerprint(key)}")
    for path in files:
        typer.echo(f"file   {path}")
    typer.echo(public_key_pem(key).decode(), nl=False)


@app.command()
def prove(
    what: Annotated[
        str,
        typer.Argument(
            help="An entry's number, or a release's id: its COMMIT is in the tree. Or a file with one earlier head: "
            "its tree is a prefix of today's."
        ),
    ],
    project: Project = Path(),
    out: Annotated[Path | None, typer.Option("--out", help="Write the proof there instead of printing it.")] = None,
) -> None:
    """Print a proof that anybody with the public key can check: python -m governance.verify proof FILE --key KEY."""
    from governance.files import write_atomic
    from governance.ledger import open_ledger
    from governance.verify.heads import TreeHead

    with open_ledger(load_settings(project)) as ledger:
        if Path(what).is_file():
            try:
                old = TreeHead.from_line(Path(what).read_text(encoding="utf-8").strip())
            except ValueError:
                raise LedgerError(f"{what}: not a tree head; give one line of a file of published heads") from None
            proof = ledger.consistency_proof(old)
        else:
            sequence = int(what) if what.isdecimal() else _commit_of(ledger, what)
            proof = ledger.inclusion_proofs([sequence])[sequence]
    text = json_module.dumps(proof, sort_keys=True, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())


def _commit_of(ledger: Ledger, release_id: str) -> int:
    """The entry that committed a release."""
    from governance.balances import EntryKind

    entries = ledger.entries()
    commits = [e.sequence for e in entries if e.subject == release_id and e.kind is EntryKind.COMMIT]
    if not commits:
        raise LedgerError(f"{release_id}: the ledger has committed no such release; name one, or an entry's number")
    return commits[-1]


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The file to write, *.jsonl: one entry a line.")],
    project: Project = Path(),
) -> None:
    """Write every entry as canonical JSON, for a reviewer who has no database: governance.verify reads it."""
    from governance.canonical import canonical_bytes
    from governance.files import write_atomic
    from governance.ledger import open_ledger

    if out.suffix != ".jsonl":
        raise ConfigError(f"{out}: allowed: a name that ends in .jsonl")
    with open_ledger(load_settings(project)) as ledger:
        lines = [canonical_bytes(entry.to_json()) + b"\n" for entry in ledger.entries()]
    write_atomic(out, b"".join(lines))
    typer.echo(f"{len(lines)} entries in {out}")


@app.command("role-key")
def role_key(
    path: Annotated[Path, typer.Argument(help="Where the role keeps its private key; made with mode 0600.")],
    name: Annotated[str, typer.Option("--name", help="The role's name.")] = "privacy-officer",
) -> None:
    """Make the key of a role that may change caps, and print what to put into hedgerow.toml."""
    from governance.keys import make_signing_key, public_key_hex

    key = make_signing_key(path).public_key()
    typer.echo(f'[[roles]]\nname = "{name}"\npublic_key = "{public_key_hex(key)}"')


@app.command("cap-change")
def cap_change(
    account: Annotated[str, typer.Argument(help="The account, dataset/unit; its new cap is what hedgerow.toml says.")],
    role: Annotated[str, typer.Option("--role", help="Who signs: a name in [[roles]].")],
    key: Annotated[Path, typer.Option("--key", help="The role's private key.")],
    justification: Annotated[str, typer.Option("--justification", help="Why; the ledger keeps it for ever.")],
    project: Project = Path(),
    json: AsJson = False,
) -> None:
    """Change an account's cap to what hedgerow.toml says, signed by a named role."""
    from governance.caps import change_cap, propose_cap
    from governance.keys import load_signing_key, public_key_hex
    from governance.ledger import open_ledger

    settings = load_settings(project)
    declared = next((known for known in settings.accounts if known.name == account), None)
    if declared is None:
        known = ", ".join(known.name for known in settings.accounts) or "none"
        raise ConfigError(f"no account {account!r} in hedgerow.toml; it declares: {known}")
    try:
        signer = load_signing_key(key)
    except OSError as error:
        raise ConfigError(f"{key}: the role's private key cannot be read ({error.strerror})") from None
    with open_ledger(settings) as ledger:
        public_key = public_key_hex(signer.public_key())
        change = propose_cap(ledger, declared, role=role, public_key=public_key, justification=justification)
        roles = {known.name: known.public_key for known in settings.roles}
        entry = change_cap(ledger, change.signed(signer), roles)
    cap, before = change.cap.to_json(), change.cap_before.to_json()
    if json:
        document = {"entry": entry, "account": account, "cap": cap, "cap_before": before}
        typer.echo(json_module.dumps(document, sort_keys=True))
    else:
        typer.echo(
            f"entry {entry}: {account} rho {before['rho']} -> {cap['rho']}, "
            f"delta {before['delta']} -> {cap['delta']}, signed by {role}"
        )


@app.command()
def migrate(project: Project = Path()) -> None:
    """Carry a ledger of hedgerow's first format over; the old file stays as ledger.format-1.db."""
    from governance.heads import HeadFiles
    from governance.ledger import KEY_FILE
    from governance.migration import migrate as carry_over

    settings = load_settings(project)
    if settings.ledger.url is not None:
        raise ConfigError("a ledger in PostgreSQL has no first format; take [ledger] url out to migrate an SQLite one")
    heads = HeadFiles(settings.state_dir, settings.ledger.witnesses)
    count = carry_over(settings.ledger_path, heads=heads, key_path=settings.keys_dir / KEY_FILE)
    typer.echo(f"{count} entries carried over; the old file is {settings.ledger_path.with_name('ledger.format-1.db')}")
