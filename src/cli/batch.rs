//! The command `batch`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use ferrum_wgpu::api::{ApiError, RequestContext, Service};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::exit::{Code, Failure};
use super::output::note;
use super::serve::ServiceArgs;
use super::template;

/// The longest line of a batch file in bytes.
const MAX_LINE: usize = 8 << 20;

/// Run the requests of an OpenAI batch file at full occupancy.
///
/// Each line of the file is a request with `custom_id`, `url` and `body`; each line of the output is its response. A run
/// that was interrupted goes on where it stopped, if it is given the same output.
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The batch file, in JSON lines.
    #[arg(value_name = "FILE.jsonl")]
    requests: PathBuf,
    #[command(flatten)]
    service: ServiceArgs,
    /// The output, in JSON lines. Requests whose responses it has are not computed again.
    #[arg(short, long, value_name = "FILE.jsonl")]
    output: PathBuf,
}

/// A request of a batch.
#[derive(Debug)]
struct Line {
    number: u64,
    id: String,
    url: String,
    body: Value,
}

fn io_error(path: &std::path::Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::Error(Code::Runtime, format!("{path}: {error}"))
}

/// Reads the next line of a file; `None` at its end.
fn line(reader: &mut impl BufRead, path: &std::path::Path) -> Result<Option<String>, Failure> {
    let mut text = String::new();
    let read = io::Read::take(&mut *reader, MAX_LINE as u64 + 1).read_line(&mut text).map_err(io_error(path))?;
    if read > MAX_LINE {
        return Err(Failure::usage(format!("{}: a line is longer than {MAX_LINE} bytes", path.display())));
    }
    Ok((read > 0).then_some(text))
}

/// Parses a request.
fn parse(text: &str, number: u64) -> Result<Line, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let string =
        |value: &Value, name: &str| value[name].as_str().map(str::to_owned).ok_or_else(|| format!("{name} is missing"));
    let (id, url) = (string(&value, "custom_id")?, string(&value, "url")?);
    if !["/v1/chat/completions", "/v1/completions", "/v1/embeddings"].contains(&url.as_str()) {
        return Err(format!("url: {url:?} is not supported"));
    }
    let mut body = value["body"].take();
    let Some(fields) = body.as_object_mut() else { return Err("body is missing".to_owned()) };
    fields.remove("stream");
    Ok(Line { number, id, url, body })
}

/// Opens the output behind its last whole line, and returns the ids of the requests that it has.
fn resume(path: &std::path::Path) -> Result<(File, HashSet<String>), Failure> {
    let error = io_error(path);
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(&error)?;
    let (mut ids, mut end) = (HashSet::new(), 0);
    let mut reader = BufReader::new(file.try_clone().map_err(&error)?);
    while let Some(text) = line(&mut reader, path)? {
        let Ok(value) = serde_json::from_str::<Value>(&text) else { break };
        let Some(id) = value["custom_id"].as_str().filter(|_| text.ends_with('\n')) else { break };
        ids.insert(id.to_owned());
        end += text.len() as u64;
    }
    // A line that was interrupted is written again.
    let len = file.metadata().map_err(&error)?.len();
    if end < len {
        let rest = fs::read(path).map_err(&error)?;
        if rest[end as usize..].contains(&b'\n') {
            return Err(Failure::usage(format!("{}: it is no output of a batch", path.display())));
        }
        file.set_len(end).map_err(&error)?;
    }
    file.seek(io::SeekFrom::Start(end)).map_err(&error)?;
    Ok((file, ids))
}

/// Computes a request, and returns its line of output.
async fn compute(service: Arc<Service>, line: Line, context: RequestContext) -> String {
    let Line { id, url, body, .. } = line;
    let answer: Result<Value, ApiError> = async {
        match url.as_str() {
            "/v1/embeddings" => service.embeddings(body)?.whole().await,
            "/v1/completions" => service.completion(body, &context)?.whole().await,
            _ => service.chat(body, &context)?.whole().await,
        }
    }
    .await;
    let (status, body) = match &answer {
        Ok(body) => (200, body.clone()),
        Err(error) => (error.status, error.openai()),
    };
    let request = format!("req_{:032x}", context.id);
    let response = json!({"status_code": status, "request_id": request, "body": body});
    json!({"id": format!("batch_{request}"), "custom_id": id, "response": response, "error": null}).to_string()
}

/// Runs the command.
pub async fn batch(args: &BatchArgs) -> Result<Code, Failure> {
    // What is wrong with a line is found before the model is loaded.
    let mut reader = BufReader::new(File::open(&args.requests).map_err(io_error(&args.requests))?);
    let (mut number, mut seen) = (0, HashSet::new());
    let wrong =
        |number: u64, problem: &str| Failure::usage(format!("{}, line {number}: {problem}", args.requests.display()));
    while let Some(text) = line(&mut reader, &args.requests)? {
        number += 1;
        if text.trim().is_empty() {
            continue;
        }
        let parsed = parse(&text, number).map_err(|problem| wrong(number, &problem))?;
        if !seen.insert(parsed.id) {
            return Err(wrong(number, "another line has this custom_id"));
        }
    }
    let (mut output, done) = resume(&args.output)?;
    let left = seen.iter().filter(|id| !done.contains(*id)).count();
    note(format_args!("{left} of {} requests are to be computed", seen.len()));
    if left == 0 {
        return Ok(Code::Success);
    }
    let (gguf, context) = args.service.open()?;
    let (service, _file) = args.service.start(gguf, context).await?;
    let service = Arc::new(service);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Error(Code::Runtime, format!("cannot start the runtime: {error}")))?;
    let started = Instant::now();
    let origin = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let mut reader = BufReader::new(File::open(&args.requests).map_err(io_error(&args.requests))?);
    let mut number = 0;
    let mut next = || -> Result<Option<Line>, Failure> {
        while let Some(text) = line(&mut reader, &args.requests)? {
            number += 1;
            if text.trim().is_empty() {
                continue;
            }
            let parsed = parse(&text, number).map_err(|problem| wrong(number, &problem))?;
            if !done.contains(&parsed.id) {
                return Ok(Some(parsed));
            }
        }
        Ok(None)
    };
    // As many wait as run, so that a sequence never waits for a request.
    let parallel = args.service.parallel as usize;
    let most = 2 * parallel;
    // Seconds times sequences that were computed.
    let (mut busy, mut last) = (0.0, started);
    let result: Result<(), Failure> = runtime.block_on(async {
        let mut running = JoinSet::new();
        let mut more = true;
        loop {
            while more && running.len() < most {
                let Some(line) = next()? else {
                    more = false;
                    break;
                };
                let (now, offset) = template::local_time();
                let context = RequestContext {
                    id: u128::from(origin) << 64 | u128::from(line.number),
                    created: origin / 1_000_000_000,
                    // The same for each run, so that a resumed one gives the same responses.
                    seed: line.number,
                    now: Some((now, offset)),
                };
                running.spawn(compute(Arc::clone(&service), line, context));
            }
            let computed = running.len().min(parallel) as f64;
            let ended = running.join_next().await;
            busy += computed * last.elapsed().as_secs_f64();
            last = Instant::now();
            match ended {
                None => return Ok(()),
                Some(Ok(text)) => {
                    writeln!(output, "{text}").and_then(|()| output.flush()).map_err(io_error(&args.output))?;
                }
                Some(Err(error)) => return Err(Failure::Error(Code::Runtime, format!("a request failed: {error}"))),
            }
        }
    });
    runtime.shutdown_background();
    result?;
    let seconds = started.elapsed().as_secs_f64();
    let occupancy = 100.0 * busy / (seconds * parallel as f64).max(f64::MIN_POSITIVE);
    note(format_args!("{left} requests in {seconds:.1} s; {occupancy:.0} % of {parallel} sequences were in use"));
    Ok(Code::Success)
}
