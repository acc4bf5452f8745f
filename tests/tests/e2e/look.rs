//! Layers to look at: the table, the page in a real browser, the explorer on a real terminal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acetate_testkit::need::{Need, have, tool};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::store::{Home, can};

const BROWSER: &str = "chromium-headless-shell";
/// How long something that has to come is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

fn zeros(path: &Path, bytes: usize) -> Result<()> {
    fs::create_dir_all(path.parent().context("no directory")?)?;
    Ok(fs::write(path, vec![0; bytes])?)
}

/// A store with an image `three` of three layers: `big` in all of them, `del/` deleted by the second one.
fn three(name: &str) -> Result<Home> {
    let home = Home::new(name)?;
    zeros(&home.path("tree/big"), 4000)?;
    zeros(&home.path("tree/del/a"), 1000)?;
    zeros(&home.path("tree/del/b"), 500)?;
    zeros(&home.path("tree/keep"), 300)?;
    home.ok(&["image", "import", "tree", "--name", "one"])?;
    home.ok(&["workspace", "create", "w", "--image", "one"])?;
    let root = home.mount("w")?;
    zeros(&root.join("big"), 5000)?;
    fs::remove_dir_all(root.join("del"))?;
    home.umount("w")?;
    home.ok(&["workspace", "commit", "w", "two"])?;
    let root = home.mount("w")?;
    zeros(&root.join("big"), 100)?;
    home.umount("w")?;
    home.ok(&["workspace", "commit", "w", "three"])?;
    Ok(home)
}

/// The minimal and the discovered bytes of a docker archive, by another program.
pub fn counted(archive: &Path) -> Result<[u64; 2]> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/data/efficiency.py");
    let output = Command::new("python3").arg(program).arg(archive).output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    numbers.try_into().ok().context(text)
}

/// What `image show` says they are.
pub fn counts(shown: &Value) -> Result<[u64; 2]> {
    let count = |key: &str| shown[key].as_u64().with_context(|| format!("no {key}"));
    Ok([count("minimal_bytes")?, count("discovered_bytes")?])
}

#[test]
fn an_image_shows_what_it_wastes() -> Result<()> {
    if !can("image show", &[Need::Tool("python3")])? {
        return Ok(());
    }
    let home = three("show")?;
    let shown = home.json(&["image", "show", "three", "--json"])?;
    // By hand: big 100 of 4000 + 5000 + 100; del and what was in it 1500 each, once; keep 300.
    ensure!(shown["minimal_bytes"] == 100 + 1500 + 1500 + 300, "{shown}");
    ensure!(shown["discovered_bytes"] == 9100 + 1500 + 1500 + 300, "{shown}");
    let efficiency = shown["efficiency"].as_f64().context("no score")?;
    ensure!((efficiency - 3400.0 / 12400.0).abs() < 1e-9, "{efficiency}");
    ensure!(shown["bytes"] == 10_900 && shown["wasted_bytes"] == 9000 + 1500, "{shown}");
    let layers: Vec<[&Value; 6]> = shown["layers"]
        .as_array()
        .context("no layers")?
        .iter()
        .map(|layer| {
            ["bytes", "added", "changed", "deleted", "hides_bytes", "wasted_bytes"].map(|key| &layer[key])
        })
        .collect();
    ensure!(
        json!(layers)
            == json!([[5800, 5, 0, 0, 0, 5500], [5000, 0, 1, 1, 5500, 5000], [100, 0, 1, 0, 5000, 0]]),
        "{layers:?}"
    );
    let waste = json!([
        {"path": "/big", "by": 2, "how": "object", "objects": 2, "bytes": 9000, "layers": [0, 1]},
        {"path": "/del/", "by": 1, "how": "whiteout", "objects": 3, "bytes": 1500, "layers": [0]},
    ]);
    ensure!(shown["waste"] == waste, "{}", shown["waste"]);
    home.ok(&["image", "export", "--format", "docker-archive", "three", "three.tar"])?;
    ensure!(counted(&home.path("three.tar"))? == counts(&shown)?, "the archive says otherwise");
    // For people: no bars and no colours but on a terminal.
    let text = home.ok(&["image", "show", "three"])?;
    ensure!(text.contains("efficiency 27.41 %"), "{text}");
    ensure!(text.contains("/del/  of layer 1, deleted by layer 2"), "{text}");
    ensure!(!text.contains(['\u{1b}', '█']), "{text}");
    for (limit, code) in [("0.27", 0), ("0.28", 1), ("28", 2)] {
        let output = home.run(&["image", "show", "three", "--fail-below", limit])?;
        ensure!(output.status.code() == Some(code), "{limit}: {output:?}");
    }
    Ok(())
}

/// A program on a terminal of its own, which script(1) makes.
struct OnTerminal {
    child: Child,
    keys: std::process::ChildStdin,
}

impl OnTerminal {
    /// Runs a shell script on a terminal of 30 rows and 100 columns; what is written on it goes to the file `screen`.
    fn run(home: &Home, script: &str) -> Result<OnTerminal> {
        let screen = File::create(home.path("screen"))?;
        let script = format!("tty >tty; stty rows 30 cols 100; {script}");
        let mut command = home.command(&[])?;
        let program = command.get_program().to_owned();
        command = Command::new("script");
        command.args(["-qfec", &script, "/dev/null"]).env("ACETATE", program).env("TERM", "xterm-256color");
        command.env("ACETATE_STORE", home.path("store")).current_dir(home.path("")).env_remove("NO_COLOR");
        let mut child = command.stdin(Stdio::piped()).stdout(screen).spawn()?;
        let keys = child.stdin.take().context("no input")?;
        Ok(OnTerminal { child, keys })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }
}

/// How long the screen is, if it has got a text after its first `from` bytes.
fn has(home: &Home, from: usize, text: &str) -> Result<usize> {
    let screen = fs::read(home.path("screen"))?;
    let new = String::from_utf8_lossy(&screen[from.min(screen.len())..]);
    ensure!(new.contains(text), "no {text:?} on the screen: {new:?}");
    Ok(screen.len())
}

/// Waits until the screen has got it.
fn sees(home: &Home, from: usize, text: &str) -> Result<usize> {
    let begin = Instant::now();
    loop {
        match has(home, from, text) {
            Err(_) if begin.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

/// What has to be on the screen once the terminal is given back: the main screen, the cursor, and modes as they were.
fn is_given_back(home: &Home, status: &str) -> Result<()> {
    sees(home, 0, status)?;
    sees(home, 0, "the end")?;
    let screen = String::from_utf8_lossy(&fs::read(home.path("screen"))?).into_owned();
    let (_, after) = screen.rsplit_once("\u{1b}[?1049l").context("still on the other screen")?;
    ensure!(screen.contains("\u{1b}[?25h"), "the cursor is hidden: {screen:?}");
    ensure!(after.contains(" icanon") && after.contains(" echo "), "{after:?}");
    Ok(())
}

#[test]
fn the_explorer_takes_a_terminal_and_gives_it_back() -> Result<()> {
    if !can("image explore", &[Need::Tool("script")])? {
        return Ok(());
    }
    let home = three("explore")?;
    let ended = "\"$ACETATE\" image explore three; echo status $?; stty -a; echo the end";
    let mut terminal = OnTerminal::run(&home, ended)?;
    let at = sees(&home, 0, "efficiency")?;
    sees(&home, 0, "27.41 %")?;
    terminal.press("/del/a")?;
    let at = sees(&home, at, "rows")?;
    terminal.press("\r\u{1b}[B")?;
    // In another size everything is drawn anew, and what the keys have done is whole words on the screen.
    let tty = fs::read_to_string(home.path("tty"))?;
    let begin = Instant::now();
    let at = loop {
        for columns in ["95", "96"] {
            let status =
                Command::new("stty").args(["-F", tty.trim(), "rows", "25", "cols", columns]).status()?;
            ensure!(status.success(), "stty: {status}");
            std::thread::sleep(Duration::from_millis(200));
        }
        match has(&home, at, "deleted by 2 at /del/") {
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
            Ok(at) => break at,
        }
    };
    terminal.press("?")?;
    sees(&home, at, "sort by name")?;
    terminal.press("x")?;
    terminal.press("q")?;
    is_given_back(&home, "status 0")?;
    ensure!(terminal.child.wait()?.success(), "script failed");
    // A signal, too, and one that comes while the user does nothing.
    for (signal, status) in [("TERM", "status 143"), ("HUP", "status 129")] {
        let script = "sh -c 'echo $$ >pid; exec \"$ACETATE\" image explore three'; echo status $?; stty -a; echo the end";
        let mut terminal = OnTerminal::run(&home, script)?;
        sees(&home, 0, "27.41 %")?;
        let pid = fs::read_to_string(home.path("pid"))?;
        ensure!(Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status()?.success(), "kill");
        is_given_back(&home, status)?;
        ensure!(terminal.child.wait()?.success(), "script failed");
    }
    let error = home.fails(&["image", "explore", "three"])?;
    ensure!(error.contains("no terminal") && error.contains("hint: "), "{error}");
    Ok(())
}

#[test]
fn completions_and_man_pages_are_those_of_the_commands() -> Result<()> {
    let home = Home::new("manual")?;
    let reference = home.ok(&["man", "--markdown"])?;
    let commands: Vec<&str> = reference.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    fs::create_dir(home.path("man"))?;
    home.ok(&["man", "man"])?;
    for command in &commands {
        let name = command.split(" (").next().unwrap_or(command).replace(' ', "-");
        let page = fs::read_to_string(home.path(format!("man/{name}.1"))).context(name.clone())?;
        ensure!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let error = home.fails(&["man", "nowhere"])?;
    ensure!(error.contains("nowhere: no such file or directory") && error.contains("hint: "), "{error}");
    for (shell, begin) in [("bash", "_acetate()"), ("zsh", "#compdef acetate"), ("fish", "function __fish")] {
        let script = home.ok(&["completions", shell])?;
        ensure!(script.contains(begin) && script.contains("explore"), "{shell}: {script}");
        fs::write(home.path(shell), script)?;
    }
    let ask = "source ./bash; COMP_WORDS=(acetate image sh); COMP_CWORD=2; _acetate acetate sh image; echo ${COMPREPLY[@]}";
    let answer = Command::new("bash").args(["--norc", "-c", ask]).current_dir(home.path("")).output()?;
    ensure!(answer.stdout == b"show\n", "{answer:?}");
    Ok(())
}

/// Headless Chromium, spoken to by its DevTools protocol over pipes.
struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    calls: u64,
    /// What the page has thrown.
    thrown: Vec<Value>,
}

impl Browser {
    fn start(home: &Home) -> Result<Browser> {
        let program = tool(BROWSER).context("no browser")?;
        for pipe in ["in", "out"] {
            mknodat(CWD, home.path(pipe), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<in 4>out"]).arg(program);
        command.args(["--no-sandbox", "--disable-gpu", "--window-size=1280,800", "--remote-debugging-pipe"]);
        command.arg("--user-data-dir=profile").current_dir(home.path("")).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // In the order in which the shell opens them.
        let to = File::options().write(true).open(home.path("in"))?;
        let from = BufReader::new(File::open(home.path("out"))?);
        Ok(Browser { child, to, from, session: None, calls: 0, thrown: Vec::new() })
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(&[message.to_string().as_bytes(), b"\0"].concat())?;
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes)?;
            ensure!(bytes.pop() == Some(0), "the browser has ended");
            let mut answer: Value = serde_json::from_slice(&bytes)?;
            if answer["method"] == "Runtime.exceptionThrown" {
                self.thrown.push(answer["params"].take());
            }
            if answer["id"] == self.calls {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].take());
            }
        }
    }

    fn open(&mut self, page: &Path) -> Result<()> {
        self.session = None;
        let url = format!("file://{}", page.display());
        let target = self.call("Target.createTarget", json!({"url": url}))?;
        let params = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", params)?;
        self.session = session["sessionId"].as_str().map(str::to_owned);
        self.call("Runtime.enable", json!({}))?;
        self.until("document.documentElement?.dataset.ready === 'yes'")
    }

    fn value(&mut self, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", params)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true.
    fn until(&mut self, expression: &str) -> Result<()> {
        let begin = Instant::now();
        while self.value(expression)? != true {
            if begin.elapsed() > PATIENCE {
                bail!("not so: {expression}: {}", self.value("document.body.innerText.slice(0, 2000)")?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<()> {
        let text = if key.chars().count() == 1 { key } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "text": if kind == "keyDown" { text } else { "" }});
            self.call("Input.dispatchKeyEvent", params)?;
        }
        Ok(())
    }

    /// The names that are listed and on the screen, with what marks them.
    fn names(&mut self) -> Result<Vec<String>> {
        let names = self.value(
            "[...document.querySelectorAll('#tree .row')].map(row => row.querySelector('.st').textContent + ' ' + \
             row.querySelector('bdi').textContent)",
        )?;
        Ok(serde_json::from_value(names)?)
    }

    /// Fails if the page has thrown anything or asked for anything from elsewhere.
    fn is_clean(&mut self) -> Result<()> {
        ensure!(self.thrown.is_empty(), "{:?}", self.thrown);
        let asked = self.value("performance.getEntriesByType('resource').length")?;
        ensure!(asked == 0, "the page asked for {asked} things");
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn the_page_of_an_image_in_a_browser() -> Result<()> {
    if !can("image page", &[Need::Tool(BROWSER)])? {
        return Ok(());
    }
    let home = three("page")?;
    home.ok(&["image", "show", "three", "--html", "page.html"])?;
    let mut browser = Browser::start(&home)?;
    browser.open(&home.path("page.html"))?;
    ensure!(browser.names()? == ["C big", "D del/", " keep"], "{:?}", browser.names()?);
    // By keys alone: into the deleted directory, to the layer that deleted it, a search.
    for key in ["ArrowDown", "ArrowRight", "ArrowDown"] {
        browser.key(key)?;
    }
    ensure!(browser.names()? == ["C big", "D del/", "D a", "D b", " keep"], "{:?}", browser.names()?);
    let detail = browser.value("document.getElementById('detail').innerText")?;
    ensure!(detail.as_str().is_some_and(|text| text.contains("deleted by 2 at /del")), "{detail}");
    browser.key("]")?;
    browser.key("]")?;
    ensure!(browser.names()? == ["C big", "D del/", "D a", "D b"], "{:?}", browser.names()?);
    let layer = browser.value("document.querySelector('#layers [aria-selected=true]').innerText")?;
    ensure!(layer.as_str().is_some_and(|text| text.starts_with('2')), "{layer}");
    browser.key("[")?;
    browser.key("[")?;
    browser.key("f")?;
    browser.key("/")?;
    browser.call("Input.insertText", json!({"text": "DEL/B"}))?;
    browser.until("document.querySelectorAll('#tree .row').length === 2")?;
    ensure!(browser.names()? == ["D del/", "D b"], "{:?}", browser.names()?);
    browser.key("Escape")?;
    browser.until("document.querySelectorAll('#tree .row').length > 2")?;
    // Both looks, each in a picture.
    let mut pictures = Vec::new();
    for look in ["light", "dark"] {
        let features = json!([{"name": "prefers-color-scheme", "value": look}]);
        browser.call("Emulation.setEmulatedMedia", json!({"features": features}))?;
        browser.until(&format!("document.documentElement.dataset.theme === '{look}'"))?;
        let picture = browser.call("Page.captureScreenshot", json!({"format": "png"}))?;
        let picture = picture["data"].as_str().context("no picture")?.to_owned();
        ensure!(picture.starts_with("iVBORw0KGgo") && picture.len() > 20_000, "{} bytes", picture.len());
        pictures.push(picture);
    }
    ensure!(pictures[0] != pictures[1], "dark is as light");
    browser.is_clean()
}

#[test]
fn odd_names_and_a_hundred_thousand_files_in_a_browser() -> Result<()> {
    if !have("layer page", &[Need::Root, Need::Tool(BROWSER)])? {
        return Ok(());
    }
    let home = Home::new("pages")?;
    let odd: [&[u8]; 4] = [
        b"</script><img src=x onerror=alert(1)>",
        b"\xff\xfe",
        "a\u{202e}txt.exe".as_bytes(),
        "<!--\u{2028}\n\\".as_bytes(),
    ];
    for dir in ["lower", "upper/odd"] {
        fs::create_dir_all(home.path(dir))?;
    }
    for name in odd {
        // One slash makes a directory of the first half.
        let path = home.path("upper/odd").join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(path, "odd")?;
    }
    for dir in 0..100 {
        let dir = home.path(format!("upper/d{dir:02}"));
        fs::create_dir(&dir)?;
        for file in 0..1000 {
            File::create(dir.join(format!("file-{file:03}")))?;
        }
    }
    let args = ["diff", "--lower", "lower", "--upper", "upper", "--html", "page.html"];
    ensure!(home.run(&args)?.status.code() == Some(1), "there are changes");
    let mut browser = Browser::start(&home)?;
    browser.open(&home.path("page.html"))?;
    let count = browser.value("document.getElementById('count').textContent")?;
    ensure!(count == "101 rows of 100,106 paths", "{count}");
    browser.key("e")?;
    let count = browser.value("document.getElementById('count').textContent")?;
    ensure!(count == "100,106 rows of 100,106 paths", "{count}");
    // However many there are, only those on the screen exist.
    let nodes = browser.value("document.getElementsByTagName('*').length")?;
    ensure!(nodes.as_u64().is_some_and(|nodes| nodes < 2000), "{nodes} nodes");
    browser.key("End")?;
    browser
        .until("[...document.querySelectorAll('#tree bdi')].some(name => name.title.startsWith('/odd/'))")?;
    let names = browser.names()?.join("\n");
    for name in [
        r"\xff\xfe",
        r"a\xe2\x80\xaetxt.exe",
        r"<!--\xe2\x80\xa8\x0a\\",
        "script><img src=x onerror=alert(1)>",
    ] {
        ensure!(names.contains(name), "{name} is not among {names}");
    }
    browser.key("/")?;
    browser.call("Input.insertText", json!({"text": "d57/file-999"}))?;
    browser.until("document.querySelectorAll('#tree .row').length === 2")?;
    browser.is_clean()?;
    // Two directories, and a path that cannot be written.
    ensure!(home.run(&["diff", "lower", "upper/odd", "--html", "two.html"])?.status.code() == Some(1), "two");
    let mut text = String::new();
    File::open(home.path("two.html"))?.read_to_string(&mut text)?;
    ensure!(text.contains("\"name\":\"new\""), "no layer is called new");
    let error = home.fails(&["diff", "lower", "upper/odd", "--html", "none/x"])?;
    ensure!(error.contains("none/x: no such file or directory") && error.contains("hint: "), "{error}");
    Ok(())
}
