//! Real templates, compared with the output of Jinja as Hugging Face configures it; and malicious templates.

use std::time::{Duration, UNIX_EPOCH};

use super::{ChatTemplate, Json, Message, RenderOptions, TextError};

const QWEN3: &str = include_str!("testdata/qwen3.jinja");
const LLAMA31: &str = include_str!("testdata/llama31.jinja");

fn render(source: &str, messages: &[Message], options: &RenderOptions) -> Result<String, TextError> {
    ChatTemplate::new(source, "<|begin_of_text|>", "</s>")?.render(messages, options)
}

fn hi(source: &str) -> Result<String, TextError> {
    render(source, &[Message::user("Hi")], &RenderOptions::default())
}

#[test]
fn qwen3() {
    let conversation = [
        Message::system("S"),
        Message::user("a"),
        Message::assistant("<think>\nhm\n</think>\n\nyes"),
        Message::user("b"),
        Message::assistant("<think>\n\n</think>\n\nno"),
    ];
    let expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n\
        <|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nno<|im_end|>\n";
    let closed = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
    assert_eq!(render(QWEN3, &conversation, &closed).unwrap(), expected);
    let open = |enable_thinking| RenderOptions { enable_thinking, ..RenderOptions::default() };
    for thinking in [None, Some(true)] {
        let rendered = render(QWEN3, &conversation, &open(thinking)).unwrap();
        assert_eq!(rendered, format!("{expected}<|im_start|>assistant\n"));
    }
    let silent = render(QWEN3, &conversation, &open(Some(false))).unwrap();
    assert_eq!(silent, format!("{expected}<|im_start|>assistant\n<think>\n\n</think>\n\n"));

    let conversation = [
        Message::user("x"),
        Message::system("later"),
        Message::user("<tool_response>r</tool_response>"),
        Message::assistant("plain"),
    ];
    let expected = "<|im_start|>user\nx<|im_end|>\n<|im_start|>system\nlater<|im_end|>\n<|im_start|>user\n\
        <tool_response>r</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nplain<|im_end|>\n";
    assert_eq!(render(QWEN3, &conversation, &closed).unwrap(), expected);
}

#[test]
fn llama31() {
    let head = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n";
    let turn = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n";
    let conversation = [Message::system("Be brief."), Message::user(" Hi \n")];
    let undated = render(LLAMA31, &conversation, &RenderOptions::default()).unwrap();
    assert_eq!(undated, format!("{head}Today Date: 26 Jul 2024\n\nBe brief.{turn}"));
    let now = Some(UNIX_EPOCH + Duration::from_secs(1_735_603_200));
    let dated = render(LLAMA31, &conversation[1..], &RenderOptions { now, ..RenderOptions::default() }).unwrap();
    assert_eq!(dated, format!("{head}Today Date: 31 Dec 2024\n\n{turn}"));
}

#[test]
fn chatml() {
    let conversation = [Message::system("S"), Message::user("<é>\n"), Message::assistant("")];
    let rendered = ChatTemplate::chatml().render(&conversation, &RenderOptions::default()).unwrap();
    let expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<é>\n<|im_end|>\n<|im_start|>assistant\n\
        <|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(rendered, expected);
    assert!(ChatTemplate::new(ChatTemplate::chatml().source(), "", "").is_ok());
}

#[test]
fn what_templates_rely_on() {
    for (source, expected) in [
        ("{{ bos_token }}{{ eos_token }}", "<|begin_of_text|></s>"),
        // Qwen3-Coder: none is not iterable.
        ("{% if tools is iterable and tools | length > 0 %}T{% endif %}ok", "ok"),
        (
            "{{ 'a' is iterable }} {{ missing is iterable }} {{ 'a' is sequence }} {{ messages[0] is sequence }}",
            "True True True True",
        ),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hi"),
        ("x {%- generation -%} {{ messages[0].content }} {%- endgeneration -%} y", "xHiy"),
        ("  {% generation %}\n{{ '{% generation %}' }}\n  {% endgeneration %}\nz", "{% generation %}\nz"),
        ("{% raw %}{% generation %}{% endraw %}{# {% generation %} #}", "{% generation %}"),
        (
            "{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
            "{\"a\":\"\\u00e9\",\"b\":1}",
        ),
        (
            "{{ [1e-5, 1e16, 2.0] | tojson }} {{ {'z': 1, 'a': [1, 'x']} }}",
            "[1e-05, 1e+16, 2.0] {'z': 1, 'a': [1, 'x']}",
        ),
        ("{{ 'a\"b\\'<&>' | e }} {{ '<' | escape | e }} {{ 3 | e }}", "a&#34;b&#39;&lt;&amp;&gt; &lt; 3"),
        ("{{ tools is none }} {{ documents is none }} {{ missing is defined }} [{{ missing }}]", "True True False []"),
        (
            "{% for i in [1,2,3,4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "13",
        ),
        ("  {% if true %}\n    x\n  {% endif %}\n", "    x\n"),
        (
            "{{ messages[0] is mapping }} {{ messages[0].items() | list | length }} {{ messages[0].get('x', 'y') }}",
            "True 2 y",
        ),
        ("{{ messages[0]['content'] | trim | upper }} {{ messages[-1].role.title() }}", "HI User"),
        ("{{ {'a': [1, 2.5, true, none, 'é\"<&>\\n']} | tojson }}", "{\"a\": [1, 2.5, true, null, \"é\\\"<&>\\n\"]}"),
        ("{{ [1, {'x': []}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"x\": []\n  }\n]"),
        ("{%- macro m(x, y='b') -%}{{ x }}{{ y }}{%- endmacro -%}{{ m('a') }}{{ m('c', y='d') }}", "abcd"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        (
            "{{ '%s-%d' | format('a', 3) }} {{ 'a,b'.split(',') | join('+') }} {{ 'x' if missing else 'y' }}",
            "a-3 a+b y",
        ),
        ("{{ 'abcabc'.replace('b', '')[::-1] }} {{ messages[0].content[:1] }} {{ 7 // 2 }} {{ 7 % 4 }}", "caca H 3 3"),
    ] {
        let rendered = hi(source).unwrap_or_else(|error| error.to_string());
        assert_eq!(rendered, expected, "{source}");
    }
}

/// Templates of models for images go through parts of contents.
#[test]
fn contents_are_parts_where_the_template_needs_them() {
    const PARTS: &str = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}\
        {% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %};{% endfor %}";
    assert_eq!(hi(PARTS).unwrap(), "user:Hi;");
    assert_eq!(hi("{{ messages[0].content[:1] }}").unwrap(), "H");
    let json = Json::parse(r#"[{"role": "user", "content": "Hi"}]"#).unwrap();
    let template = ChatTemplate::new(PARTS, "", "").unwrap();
    assert_eq!(template.render_json(&json, &RenderOptions::default()).unwrap(), "user:Hi;");
}

/// The date is the local one, as that of Python's `datetime.now()`.
#[test]
fn dates_are_local() {
    let options = RenderOptions::default().now(UNIX_EPOCH + Duration::from_secs(86_400 - 3_600)).utc_offset(9 * 3_600);
    let source = "{{ messages[0].content }} {{ strftime_now('%d %b %Y %H:%M%z') }}";
    assert_eq!(render(source, &[Message::user("Hi")], &options).unwrap(), "Hi 02 Jan 1970 08:00");
}

#[test]
fn refusals_are_typed() {
    let raised = hi("{{ raise_exception('roles must\nalternate') }}").unwrap_err();
    assert!(
        matches!(&raised, TextError::TemplateRaised(message) if message == "roles must alternate (in chat template:1)"),
        "{raised:?}"
    );
    let inside = "{% macro m() %}{% for x in [1] %}{{ raise_exception('no') }}{% endfor %}{% endmacro %}{{ m() }}";
    assert!(matches!(hi(inside), Err(TextError::TemplateRaised(message)) if message == "no (in chat template:1)"));
    for source in ["{% if %}", "{{ 'a }}", "{% endfor %}", "{{ ( }}", "{% for x in y %}"] {
        assert!(matches!(ChatTemplate::new(source, "", ""), Err(TextError::TemplateSyntax(_))), "{source}");
    }
    for source in [
        "{{ missing.attribute }}",
        "{% for x in tools %}{% endfor %}",
        "{{ [1] | map('string') | tojson(indent=2) }}",
        "{{ nothing() }}",
        "{% include 'file' %}",
        "{{ 'a'.nothing() }}",
        "{{ 1 // 0 }}",
    ] {
        let error = hi(source).unwrap_err();
        assert!(
            matches!(error, TextError::TemplateFailed(_)) && !error.to_string().contains('\n'),
            "{source}: {error}"
        );
    }
    assert!(matches!(ChatTemplate::new(&" ".repeat(1 << 17), "", ""), Err(TextError::TemplateTooLarge(_))));
}

#[test]
fn endless_work_is_cut_short() {
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(s='a') %}}{{% for i in range(99999) %}}{{% {step} %}}{{% endfor %}}{{{{ ns.s }}}}"
        )
    };
    for source in [
        grow("set ns.s = ns.s ~ ns.s"),
        grow("set ns.s = ns.s * 1000"),
        "{{ 'a' * 10000000000 }}".to_owned(),
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{{ 'a' | indent(4000000000) }}".to_owned(),
    ] {
        assert!(hi(&source).is_err(), "{source}");
    }
    let recursion = hi("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    assert!(matches!(recursion, Err(TextError::TemplateFailed(_))), "{recursion:?}");
}

/// Each of these would overflow a stack of default size.
#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep =
        |before: &str, piece: &str, after: &str| format!("{before}{}{after}", piece.repeat(60_000 / piece.len()));
    for source in [
        deep("{{ 1", "+1", " }}"),
        deep("{{ a", "()", " }}"),
        deep("{{ a", "|e", " }}"),
        deep("{{ ", "(", " }}"),
        deep("{% if a %}", "{%elif a%}", "{% endif %}"),
        deep("", "{% if a %}", ""),
        deep("{% set ns = namespace(x=[]) %}{% for i in range(99999) %}", "{% set ns.x = [ns.x] %}", "{% endfor %}{{ ns.x }}"),
        "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}".to_owned(),
    ] {
        // Only that it returns matters.
        drop(hi(&source));
    }
}

/// Operations that traverse values `x` and `y` without consuming fuel per element.
const GOES_THROUGH: &[&str] = &[
    "{{ x }}",
    "{{ x ~ '' }}",
    "{{ x == y }}",
    "{{ x != y }}",
    "{{ x < y }}",
    "{{ x == y == x }}",
    "{{ x in [y, y] }}",
    "{{ x not in y }}",
    "{{ x in 'text' }}",
    "{{ {x: 1} }}",
    "{{ {'a': 1}[x] }}",
    "{{ x | string }}",
    "{{ x | upper }}",
    "{{ x | tojson }}",
    "{{ x | pprint }}",
    "{{ x | join }}",
    "{{ x | urlencode }}",
    "{{ x | replace(y, 'z') }}",
    "{{ [x, y] | sort }}",
    "{{ [x, y] | unique | length }}",
    "{{ [x, y] | min }}",
    "{{ [x, y] | groupby(0) }}",
    "{{ [{'a': x}, {'a': y}] | map(attribute='a') | join }}",
    "{{ [x, y] | map('string') | list }}",
    "{{ [x, y] | select('eq', y) | list }}",
    "{{ '%s' | format(x) }}",
    "{{ 'a'.join([x]) }}",
    "{{ x.count(y) }}",
    "{{ x.index(y) }}",
    "{{ x is eq(y) }}",
    "{{ x is in([y]) }}",
    "{% for i in [x, y] %}{{ loop.changed(i) }}{% endfor %}",
    "{% set z %}{{ x }}{% endset %}",
    "{% macro m(z) %}{{ z }}{% endmacro %}{{ m(x) }}",
    "{{ raise_exception(x) }}",
    "{{ strftime_now(x) }}",
    "{{ dict(a=x, b=y) }}",
    "{{ namespace(a=x) }}",
    "{{ ([x] * 100) | list | string }}",
];

/// Two equal but distinct values: nested lists, each holding the previous one twice.
#[test]
fn values_that_hold_themselves_many_times_are_refused() {
    let doubled = |n: usize| {
        let step = "{% set x = [x, x] %}{% set y = [y, y] %}".repeat(n);
        format!("{{% set x = 'ab' %}}{{% set y = 'ab' %}}{step}")
    };
    let wide = "{% set x = [['ab'] * 900] * 900 %}{% set x = [x] * 900 %}{% set y = [['ab'] * 900] * 900 %}\
        {% set y = [y] * 900 %}"
        .to_owned();
    let by_macro = "{% macro grow(x, y, n) %}{% if n %}{{ grow([x, x], {'a': y, 'b': y}, n - 1) }}{% else %}USE\
        {% endif %}{% endmacro %}{{ grow('ab', 'ab', 40) }}";
    let start = std::time::Instant::now();
    for using in GOES_THROUGH {
        for source in [doubled(26) + using, wide.clone() + using, by_macro.replace("USE", using)] {
            let error = hi(&source).expect_err(using);
            assert!(matches!(error, TextError::TemplateLimit | TextError::TemplateFailed(_)), "{using}: {error}");
        }
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn namespaces_cannot_hold_themselves() {
    for source in [
        "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}{{ ns == ns.x }}",
        "{% set ns = namespace(x=1) %}{% set ns.x = {'a': ns} %}{{ ns ~ '' }}",
        "{% set ns = namespace(x=1) %}{% set other = namespace(x=ns) %}{% set ns.x = other %}{{ ns }}",
        // Under another name the function is not recognized as a container; the value is rejected when it is traversed.
        "{% set f = namespace %}{% set ns = namespace() %}{% set a = f(x=ns) %}{% set ns.x = a %}{{ ns }}",
        "{% set f = dict %}{% set ns = namespace() %}{% set ns.x = f(x=ns) %}{{ ns }}",
        "{% set f = dict %}{% set ns = namespace() %}{% set ns.x = f(x=ns) %}{{ ns ~ '' }}",
    ] {
        let error = hi(source).expect_err(source);
        assert!(matches!(error, TextError::TemplateLimit | TextError::TemplateFailed(_)), "{source}: {error}");
    }
    // A namespace that does not contain itself works.
    let fine =
        "{% set ns = namespace(x=[]) %}{% macro m(n) %}{% set n.x = n.x + [1] %}{% endmacro %}{{ m(ns) }}{{ ns.x }}";
    assert_eq!(hi(fine).unwrap(), "[1]");
}

/// The checks consume fuel: long conversations stay far below the limit, even in templates that are quadratic in
/// messages.
#[test]
fn long_conversations_have_fuel_enough() {
    let conversation: Vec<Message> = (0..1000)
        .map(|i| {
            if i % 2 == 0 {
                Message::user("word ".repeat(i % 90))
            } else {
                Message::assistant("<think>\n\n</think>\n\nyes")
            }
        })
        .collect();
    for template in [
        QWEN3,
        LLAMA31,
        "{% for m in messages %}{% if loop.index0 == messages | length - 1 %}last{% endif %}{{ m.content | trim }}{% endfor %}",
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.all | length }}",
    ] {
        let rendered = render(template, &conversation, &RenderOptions::default());
        assert!(rendered.is_ok(), "{rendered:?}");
    }
}
