//! Messages of our own with the faults that RFC 4475 and RFC 5118 are about; the verdict is that of parser and validation.
//! What only a proxy or a registrar can refuse is sound here.

use reveille_sip::{message::Contacts, response::best_effort, validate};

use crate::{parse, verdict};

/// A sound OPTIONS with some lines replaced (by what the line begins with) or, where none begins so, added.
fn options(lines: &[&str]) -> String {
    let mut all: Vec<String> = [
        "OPTIONS sip:carol@home.example SIP/2.0",
        "Via: SIP/2.0/UDP 198.51.100.9:5062;branch=z9hG4bKtorture1",
        "Max-Forwards: 20",
        "From: <sip:dave@away.example>;tag=tt1",
        "To: <sip:carol@home.example>",
        "Call-ID: tort-1@198.51.100.9",
        "CSeq: 7 OPTIONS",
        "Content-Length: 0",
    ]
    .map(str::to_owned)
    .to_vec();
    for line in lines {
        let name = line.split([':', ' ']).next().unwrap_or("");
        match all.iter_mut().find(|old| old.split([':', ' ']).next() == Some(name)) {
            Some(old) => *old = (*line).to_owned(),
            None => all.push((*line).to_owned()),
        }
    }
    all.join("\r\n") + "\r\n\r\n"
}

const METHOD: &str = "!odd-Method9_*+`.%x'~";

/// Section 13 of the requirements, S-010 to S-035; 0 is sound.
#[test]
fn faults_of_rfc_4475() {
    let odd_method =
        |cseq: &str| options(&[cseq, "Via: SIP/2.0/TCP h;branch=z9hG4bK-.!%66*_+`'~"]).replacen("OPTIONS", METHOD, 1);
    let long = "very".repeat(200);
    let cases: Vec<(&str, u16, String)> = vec![
        ("sound", 0, options(&[])),
        (
            "wsinv",
            0,
            concat!(
                "INVITE sip:eve@home.example;what SIP/2.0\r\n",
                "TO :\r\n sip:eve@home.example ;   tag    = 55a\r\n",
                "from   : \"E \\\\\\\"\"       <sip:dave@away.example>\r\n  ;\r\n  tag = 9x\r\n",
                "MaX-fOrWaRdS: 0042\r\nCall-ID: w.1\r\nContent-Length   : 2\r\ncseq: 0003\r\n  INVITE\r\n",
                "Via  : SIP  /   2.0\r\n /UDP\r\n    198.51.100.2;branch=39x\r\ns :\r\n",
                "New: a\r\n b\r\nOdd: ;;,,;;,;\r\nRoute:\r\n <sip:p.example;lr;u=v;w>\r\n",
                "v:  SIP  / 2.0  / TCP     q.example   ;\r\n  branch  =   z9hG4bKq  ,\r\n SIP  /    2.0   / UDP  10.1.1.1   ; branch=\r\n z9hG4bKr\r\n",
                "m:\"Q \\\"\\\"\" <sip:eve@q.example> ; newparam =\r\n      v ;\r\n  second ; q = 0.33\r\n\r\nhi"
            )
            .to_owned(),
        ),
        ("intmeth", 0, odd_method(&format!("CSeq: 7 {METHOD}"))),
        ("intmeth: NUL as a quoted pair", 0, options(&["To: \"BEL:\\\x07 NUL:\\\0 DEL:\\\x7f\" <sip:carol@home.example>"])),
        ("NUL elsewhere", 400, options(&["Subject: a\0b"])),
        ("NUL in quotes, but bare", 400, options(&["To: \"a\0\" <sip:carol@home.example>"])),
        ("esc01", 0, options(&["From: <sip:sips%3Adave%40x@away.example>;tag=1", "Contact: <sip:c%61llee@h.example;p=value%2541>"])),
        ("escnull", 0, options(&["Contact: <sip:null-%00-null@h.example>", "m: <sip:%00@h.example>"])),
        ("esc02", 0, options(&["CSeq: 7 RE%47IST%45R", "To: \"%Z%45\" <sip:a@h>"]).replacen("OPTIONS", "RE%47IST%45R", 1)),
        ("lwsdisp", 0, options(&["From: dave<sip:dave@away.example>;tag=1"])),
        ("longreq", 0, options(&[&format!("X-Long: {long}"), &format!("User-Agent: {long}")])),
        ("dblreq", 0, options(&[]) + &options(&["Call-ID: two"])),
        ("semiuri", 0, options(&[]).replacen("sip:carol@", "sip:carol;par=u%40h@", 1)),
        ("transports", 0, options(&["v: SIP/2.0/UNKNOWN t4.example;branch=z9hG4bKx", "Via: SIP/2.0/SCTP t2.example;branch=z9hG4bKy"])),
        ("badinv01", 400, options(&["Via: SIP/2.0/UDP 198.51.100.9;;,;,,"])),
        ("clerr", 400, options(&["Content-Length: 9999"])),
        ("ncl", 400, options(&["Content-Length: -9"])),
        ("scalar02: CSeq", 400, options(&["CSeq: 36893488147419103232 OPTIONS"])),
        ("CSeq of 2^31", 400, options(&["CSeq: 2147483648 OPTIONS"])),
        ("largest CSeq", 0, options(&["CSeq: 2147483647 OPTIONS"])),
        ("Max-Forwards 300", 400, options(&["Max-Forwards: 300"])),
        ("Max-Forwards +7", 400, options(&["Max-Forwards: +7"])),
        ("expiry out of range is the registrar's default", 0, options(&["Expires: 99999999999999999999", "Contact: <sip:a@h>;expires=x"])),
        ("q out of range", 400, options(&["Contact: <sip:a@h>;q=1.001"])),
        ("port 0", 400, options(&["Contact: <sip:a@h:0>"])),
        ("port 65536", 400, options(&["Via: SIP/2.0/UDP h:65536;branch=z9hG4bKx"])),
        ("quotbal", 400, options(&["To: \"Carol <sip:carol@home.example>"])),
        ("ltgtruri", 400, options(&[]).replacen("sip:carol@home.example SIP", "<sip:carol@home.example> SIP", 1)),
        ("lwsruri", 400, options(&[]).replacen("example SIP", "example; lr SIP", 1)),
        ("lwsstart", 400, options(&[]).replacen(" sip", "  sip", 1)),
        ("trws", 400, options(&[]).replacen("SIP/2.0\r\n", "SIP/2.0  \r\n", 1)),
        ("escruri", 400, options(&[]).replacen("example SIP", "example?Route=%3Csip:x.example%3E SIP", 1)),
        ("baddate", 0, options(&["Date: Fri, 01 Jan 2010 16:00:00 EST"])),
        ("regbadct", 400, options(&["Contact: sip:carol@h.example?Route=%3Csip:x.example%3E"])),
        ("bracketed, the same is sound: regescrt", 0, options(&["Contact: <sip:carol@h.example?Route=%3Csip:x.example%3E>"])),
        ("badaspec", 400, options(&["To: \"Carol\" < sip:carol@home.example >"])),
        ("baddn", 400, options(&["From: Jones, Dave <sip:dave@away.example>;tag=1"])),
        ("baddn: no empty line", 400, options(&[]).trim_end().to_owned() + "\r\n"),
        ("badvers", 505, options(&[]).replacen("SIP/2.0\r\n", "SIP/7.0\r\n", 1)),
        ("version in lower case", 0, options(&[]).replacen("SIP/2.0\r\n", "sip/2.0\r\n", 1)),
        ("mismatch01", 400, options(&["CSeq: 7 INVITE"])),
        ("mismatch02", 501, options(&["CSeq: 7 INVITE"]).replacen("OPTIONS", "NEWMETHOD", 1)),
        ("insuf", 400, options(&[]).replacen("Call-ID: tort-1@198.51.100.9\r\n", "", 1)),
        ("no From", 400, options(&[]).replacen("From: <sip:dave@away.example>;tag=tt1\r\n", "", 1)),
        ("no Via", 400, options(&[]).replacen("Via: ", "X-Via: ", 1)),
        ("unkscm", 416, options(&[]).replacen("sip:carol@home.example SIP", "nobodyKnows:opaque SIP", 1)),
        ("novelsc", 416, options(&[]).replacen("sip:carol@home.example SIP", "soap.beep://198.51.100.1:3002 SIP", 1)),
        ("unkscm with a Route", 0, options(&["Route: <sip:p;lr>"]).replacen("sip:carol@home.example SIP", "novel:x SIP", 1)),
        ("unksm2", 0, options(&["To: isbn:2983792873", "From: <http://www.away.example>;tag=1", "Contact: <name:C_J>"])),
        ("bext01", 0, options(&["Require: nothing", "Proxy-Require: noProxiesSupportThis, norDoAny"])),
        ("regaut01", 0, options(&["Authorization: NoOneKnowsThisScheme opaque-data=here"])),
        ("multi01: Call-ID", 400, options(&["i: two"])),
        ("multi01: To", 400, options(&["t: <sip:x@h>"])),
        ("multi01: Max-Forwards", 400, options(&["max-forwards: 5"])),
        ("mcl01", 400, options(&["l: 5"])),
        ("the same length twice", 0, options(&["l: 0"])),
        ("zeromf", 0, options(&["Max-Forwards: 0"])),
        ("cparam01", 0, options(&["Contact: sip:+1@gw.example;unknownparam"])),
        ("cparam02", 0, options(&["Contact: <sip:+1@gw.example;unknownparam>"])),
        ("inv2543", 0, options(&["Via: SIP/2.0/UDP gw.example", "From: <sip:+1@gw.example;user=phone>"]).replacen("Max-Forwards: 20\r\n", "", 1)),
        ("badbranch: older matching", 0, options(&["Via: SIP/2.0/UDP 198.51.100.9;branch=z9hG4bK"])),
        ("wildcard among others", 400, options(&["Contact: *, <sip:a@h>"])),
        ("empty Contact", 400, options(&["Contact:"])),
        ("bare LF", 400, options(&["X-Foo: a\nVia: SIP/2.0/UDP evil"])),
        ("bare CR", 400, options(&["X-Foo: a\rVia: SIP/2.0/UDP evil"])),
        ("line without colon", 400, options(&["Foobar roobar"])),
        ("folded start line", 400, options(&[]).replacen("\r\nVia", "\r\n Via", 1)),
        ("user part may not be empty", 400, options(&["Contact: <sip:@h>"])),
        ("half an escape", 400, options(&["Contact: <sip:a%4@h>"])),
    ];
    for (name, expected, text) in &cases {
        assert_eq!(verdict(text.as_bytes()), *expected, "{name}");
    }
}

/// Section 14 of the requirements; S-031.
#[test]
fn faults_of_rfc_5118() {
    let uri = |uri: &str| options(&[]).replacen("sip:carol@home.example SIP", &format!("{uri} SIP"), 1);
    let cases = [
        ("ipv6-good", 0, uri("sip:[2001:db8::10]")),
        ("ipv6-bad", 400, uri("sip:2001:db8::10")),
        ("port-ambiguous", 0, uri("sip:[2001:db8::10:5070]")),
        ("port-unambiguous", 0, uri("sip:[2001:db8::10]:5070")),
        (
            "received with brackets",
            0,
            options(&["Via: SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bK1"]),
        ),
        (
            "received without",
            0,
            options(&["Via: SIP/2.0/UDP [2001:db8::9:1];received=2001:db8::9:255;branch=z9hG4bK1"]),
        ),
        (
            "mult-ip-in-header",
            0,
            options(&["Via: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bK1, SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK2"]),
        ),
        (
            "ipv4-mapped-ipv6",
            0,
            options(&[
                "Via: SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bK1",
                "Contact: \"T. desk\" <sip:ted@[::ffff:192.0.2.2]>",
            ]),
        ),
        ("three colons", 400, uri("sip:user@[2001:db8:::192.0.2.1]")),
        ("two colons", 0, uri("sip:user@[2001:db8::192.0.2.1]")),
    ];
    for (name, expected, text) in &cases {
        assert_eq!(verdict(text.as_bytes()), *expected, "{name}");
    }
}

/// S-012, S-019, S-026: what of responses goes on, and what is dropped.
#[test]
fn responses() {
    let response = |line: &str, cseq: &str| {
        options(&[cseq]).replacen("OPTIONS sip:carol@home.example SIP/2.0", line, 1).replacen(
            "Max-Forwards: 20\r\n",
            "",
            1,
        )
    };
    for (name, sound, line, cseq) in [
        ("unreason", true, "SIP/2.0 200 = 2**3 * 5**2 \u{43d}\u{43e}", "CSeq: 7 OPTIONS"),
        ("noreason", true, "SIP/2.0 100 ", "CSeq: 7 OPTIONS"),
        ("no reason, no space", true, "SIP/2.0 100", "CSeq: 7 OPTIONS"),
        ("unknown method", true, "SIP/2.0 299 x", "CSeq: 7 NOVEL"),
        ("scalarlg", false, "SIP/2.0 503 Service Unavailable", "CSeq: 9292394834772304023312 OPTIONS"),
        ("bigcode", false, "SIP/2.0 4294967301 better not break the receiver", "CSeq: 7 OPTIONS"),
        ("status 99", false, "SIP/2.0 099 x", "CSeq: 7 OPTIONS"),
        ("status 700", false, "SIP/2.0 700 x", "CSeq: 7 OPTIONS"),
        ("version", false, "SIP/3.0 200 OK", "CSeq: 7 OPTIONS"),
    ] {
        let text = response(line, cseq);
        assert_eq!(verdict(text.as_bytes()) == 0, sound, "{name}");
        assert_eq!(best_effort(text.as_bytes(), 400, "Bad Request"), None, "{name}: never answered");
    }
}

/// S-010, S-020, S-025: what the sound ones among them say.
#[test]
fn meanings() {
    let two = parse(options(&[]) + &options(&["Call-ID: two"])).unwrap();
    assert_eq!(two.bytes(), options(&[]).as_bytes(), "dblreq: what follows is cut off");
    let nulls = parse(options(&["Contact: <sip:null-%00-null@h>, <sip:%00@h>"])).unwrap();
    let Contacts::List(list) = nulls.contacts().unwrap() else { panic!("two contacts") };
    let users: Vec<_> = list.iter().map(|c| c.uri().unwrap().user_decoded().unwrap().into_owned()).collect();
    assert_eq!(users, [b"null-\0-null".to_vec(), b"\0".to_vec()]);
    let param = parse(options(&["Contact: sip:+1@gw.example;unknownparam"])).unwrap();
    let Contacts::List(list) = param.contacts().unwrap() else { panic!("one contact") };
    assert_eq!(list[0].uri, "sip:+1@gw.example");
    assert!(list[0].params.get("unknownparam").is_some());
    let port = parse(options(&[]).replacen("sip:carol@home.example SIP", "sip:[2001:db8::10:5070] SIP", 1)).unwrap();
    let uri = reveille_sip::uri::Uri::parse(port.request_uri()).unwrap();
    assert_eq!((uri.host(), uri.port()), ("[2001:db8::10:5070]", None));
    let legacy = parse(options(&["Via: SIP/2.0/UDP gw.example"])).unwrap();
    assert_eq!(legacy.top_via().unwrap().branch(), None, "S-033");
    assert!(validate::request(&legacy).is_ok());
}

/// A line that is not UTF-8 is never passed over in favour of the next one; elsewhere it goes through (S-009).
#[test]
fn lines_that_are_not_utf_8() {
    let mut text = options(&["Subject: xx", "v: SIP/2.0/UDP second;branch=z9hG4bK2"]).into_bytes();
    let subject = memchr::memmem::find(&text, b"xx").unwrap();
    text[subject] = 0xff;
    assert_eq!(verdict(&text), 0);
    let via = memchr::memmem::find(&text, b"198.51").unwrap();
    text[via] = 0xff;
    let message = parse(&text).unwrap();
    assert!(message.top_via().is_err());
    assert_eq!(verdict(&text), 400);
}
