//! A Python virtual environment made on a mount, used, and used again as a lower layer.

use std::path::Path;
use std::process::Command;

use super::{LIMIT, Place, expect_eq, run_in};
use crate::driver::Driver;
use crate::exec;

/// Makes `sheet-VERSION-py3-none-any.whl` in the directory given: a module and a command, no network needed.
const MAKE_WHEEL: &str = r#"
import sys, zipfile
where, version = sys.argv[1:]
info = f"sheet-{version}.dist-info"
files = {
    "sheet/__init__.py": f"VERSION = '{version}'\ndef main():\n    print('sheet', VERSION)\n",
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: sheet\nVersion: {version}\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": "[console_scripts]\nsheet = sheet:main\n",
}
for i in range(200):
    files[f"sheet/part{i}.py"] = f"VALUE = {i}\n" * 20
files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
with zipfile.ZipFile(f"{where}/sheet-{version}-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

/// Makes an environment on a mount of `driver`, installs, upgrades and removes a package, also over a lower layer.
pub fn make_and_use(driver: &Driver) -> anyhow::Result<String> {
    let mut place = Place::new(driver, "acetate-venv", |lower, _| {
        for version in ["1.0", "2.0"] {
            let mut python = Command::new("python3");
            exec::stdout_of(python.args(["-c", MAKE_WHEEL]).arg(lower).arg(version), LIMIT)?;
        }
        Ok(())
    })?;
    let merged = place.merged.clone();
    run_in(&merged, "python3 -m venv env")?;
    pip(&merged, "install sheet==1.0")?;
    expect_eq(&sheet(&merged)?, &"sheet 1.0".into(), "the installed command")?;

    // The same environment from a lower layer: an upgrade replaces and removes files of that layer.
    place.push_layer()?;
    expect_eq(&sheet(&merged)?, &"sheet 1.0".into(), "the command in a lower layer")?;
    pip(&merged, "install --upgrade sheet")?;
    expect_eq(&sheet(&merged)?, &"sheet 2.0".into(), "the command after an upgrade")?;
    run_in(&merged, "env/bin/python -m compileall -q -f env/lib")?;
    pip(&merged, "uninstall --yes sheet")?;
    let gone = run_in(&merged, "env/bin/python -c import\tsheet");
    if gone.is_ok() {
        anyhow::bail!("the module can still be imported after pip uninstall");
    }
    pip(&merged, "install sheet==2.0")?;
    let files = run_in(&merged, "find env")?.lines().count();
    place.finish(|merged| {
        expect_eq(&sheet(merged)?, &"sheet 2.0".into(), "the command at the end")?;
        run_in(merged, "env/bin/python -m pip check").map(drop)
    })?;
    Ok(format!("an environment of {files} files made, and changed over a lower layer"))
}

fn pip(dir: &Path, line: &str) -> anyhow::Result<()> {
    let mut command = Command::new("env/bin/python");
    command.args(["-m", "pip", "--isolated", "--quiet", "--disable-pip-version-check"]).args(line.split(' '));
    if line.starts_with("install") {
        command.args(["--no-index", "--find-links", "."]);
    }
    exec::stdout_of(command.current_dir(dir), LIMIT).map(drop)
}

fn sheet(dir: &Path) -> anyhow::Result<String> {
    // No bytecode: the tree is compared afterwards, and the check must not change it.
    let mut command = Command::new("env/bin/sheet");
    let out = exec::stdout_of(command.current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1"), LIMIT)?;
    Ok(String::from_utf8_lossy(&out).trim().to_owned())
}
