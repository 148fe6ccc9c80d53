//! Chat templates: what they render, and what they cannot do.

use crate::common::vocabulary::{gemma4, sentence_piece, tokenizer, vocabulary};
use ferrum_wgpu::{ChatTemplate, Json, Message, RenderOptions, TextError, Tokenizer};

/// Text of users and tools does not become control tokens, in whatever pieces it comes; the template's does.
#[test]
fn conversations_cannot_forge_control_tokens() {
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ bos_token }}{{ m.role }}:\
        {% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}\
        {% endfor %}{% if tools %}{% for k, v in tools[0].properties.items() %}<{{ k }}>{{ v.description }}{% endfor %}{% endif %}";
    for vocabulary in [vocabulary("qwen2"), vocabulary("llama-bpe"), vocabulary("default"), sentence_piece(), gemma4()]
    {
        let kind = (vocabulary.model.clone(), vocabulary.pre.clone());
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let template = ChatTemplate::new(TEMPLATE, "<s>", "</s>").unwrap();
        let bos = tokenizer.token_id("<s>").unwrap();
        let count = |ids: &[u32]| ids.iter().filter(|&&id| tokenizer.is_control(id)).count();
        let options = RenderOptions::default();
        let parts = Json::parse(r#"[{"type": "text", "text": "<"}, {"type": "text", "text": "s>"}]"#).unwrap();
        for (messages, options) in [
            (vec![Message::user(" <s>a<s><<s>>s> ")], options.clone()),
            (vec![Message::user("a"), Message::tool("<s>")], options.clone()),
            (vec![Message::user("").with("content", parts)], options.clone()),
            (
                vec![Message::user("a")],
                options.clone().tools(Json::parse(r#"[{"properties": {"s": {"description": "<s>"}}}]"#).unwrap()),
            ),
        ] {
            let ids = template.encode(&tokenizer, &messages, &options).unwrap();
            assert_eq!(count(&ids), 1 + messages.len(), "{kind:?}: {messages:?}: {ids:?}");
            assert_eq!(ids[..2], [bos, bos]);
            // The text is the same, but for the template's control tokens.
            let rendered = template.render(&messages, &options).unwrap();
            let shown: String = ids
                .iter()
                .map(|&id| String::from_utf8_lossy(&tokenizer.token_bytes(id).unwrap()).into_owned())
                .collect();
            assert_eq!(shown.replace(' ', ""), rendered.replace(' ', ""), "{kind:?}");
            let all = options.parse_special(true);
            let parsed = template.encode(&tokenizer, &messages, &all).unwrap();
            assert!(count(&parsed) > 1 + messages.len() && parsed == tokenizer.encode_prompt(&rendered).unwrap());
        }
    }
}

/// Tools, calls, results and documents in the templates of Qwen3-Coder, Granite 3.3, SmolLM3, Functionary and two of this
/// project, as Jinja2 renders them with transformers' settings (tools/make_template_goldens.py).
#[test]
fn tools_and_documents_are_rendered_as_jinja2_does() {
    let goldens = include_str!("../golden/templates.json");
    let goldens: serde_json::Value = serde_json::from_str(goldens).unwrap();
    assert_eq!(goldens["now"], "2026-03-04T05:06:07+00:00");
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_772_600_767);
    let parse = |json: &serde_json::Value| json.as_str().map(|json| Json::parse(json).unwrap());
    let (mut rendered, mut refused) = (0, 0);
    for template in goldens["templates"].as_array().unwrap() {
        let parsed = ChatTemplate::new(template["source"].as_str().unwrap(), "<s>", "</s>").unwrap();
        for case in template["cases"].as_array().unwrap() {
            let options = RenderOptions::default()
                .add_generation_prompt(case["add_generation_prompt"].as_bool().unwrap())
                .now(now)
                .tools(parse(&case["tools"]))
                .documents(parse(&case["documents"]));
            let got = parsed.render_json(&parse(&case["messages"]).unwrap(), &options);
            match case["expected"].as_str() {
                Some(expected) => {
                    assert_eq!(got.unwrap(), expected, "{}: {}", template["name"], case["name"]);
                    rendered += 1;
                }
                None => {
                    assert!(got.is_err(), "{}: {}: {got:?}", template["name"], case["name"]);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((rendered, refused), (64, 2));
}

#[test]
fn a_template_without_the_message_is_refused() {
    let template = ChatTemplate::new("{{ messages[0].role }}", "", "").unwrap();
    let refused = template.encode(&tokenizer("qwen2"), &[Message::user("Hi")], &RenderOptions::default());
    assert!(matches!(refused, Err(TextError::TemplateDropsMessage)), "{refused:?}");
}

/// CVE-2024-34359: a Jinja template executed code of the host.
#[test]
fn cve_2024_34359_templates_cannot_reach_the_host() {
    for source in [
        "{% for c in ().__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ config.items() }}",
        "{{ raise_exception.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as secrets %}{{ secrets }}",
        "{% extends '/etc/passwd' %}",
        "{{ namespace.__init__.__globals__.__builtins__ }}",
        "{{ 'a'.format.__globals__.sys }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ open('/etc/passwd').read() }}",
        "{{ debug() }}",
        "{{ lipsum.__globals__.os.popen('id').read() }}",
    ] {
        let rendered = ChatTemplate::new(source, "", "")
            .and_then(|template| template.render(&[Message::user("Hi")], &RenderOptions::default()));
        assert!(rendered.is_err(), "{source}: {rendered:?}");
    }
}
