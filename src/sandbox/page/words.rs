//! The words of the page, in Chinese and English.

/// The language of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Lang {
    Zh,
    En,
}

/// What the page says.
pub(super) struct Words {
    pub(super) code: &'static str,
    pub(super) other_code: &'static str,
    pub(super) other_name: &'static str,
    pub(super) title: &'static str,
    pub(super) a_minute: &'static str,
    pub(super) no_limit: &'static str,
    pub(super) signed: &'static str,
    pub(super) keywords: &'static str,
    pub(super) clear: &'static str,
    pub(super) live: &'static str,
    pub(super) connection_lost: &'static str,
    pub(super) empty_title: &'static str,
    pub(super) empty_text: &'static str,
    pub(super) empty_more: &'static str,
    pub(super) must_be_signed: &'static str,
    pub(super) hello: &'static str,
    pub(super) copy: &'static str,
    pub(super) copied: &'static str,
    pub(super) foot: &'static str,
    pub(super) name: &'static str,
    pub(super) tag: &'static str,
    pub(super) everybody: &'static str,
    pub(super) chat_list: &'static str,
    pub(super) duplicates: &'static str,
    pub(super) mismatched: &'static str,
    pub(super) scripted: &'static str,
    pub(super) unseen: &'static str,
    pub(super) lost: &'static str,
    pub(super) refused: &'static str,
}

impl Lang {
    /// The first language of a list such as `Accept-Language` sends; English for all but Chinese.
    pub(in crate::sandbox) fn of(list: &str) -> Lang {
        if list.trim_start().to_ascii_lowercase().starts_with("zh") { Lang::Zh } else { Lang::En }
    }

    pub(super) fn words(self) -> &'static Words {
        match self {
            Lang::Zh => &ZH,
            Lang::En => &EN,
        }
    }
}

const ZH: Words = Words {
    code: "zh",
    other_code: "en",
    other_name: "English",
    title: "沙箱群",
    a_minute: " 条/分钟",
    no_limit: "不限流",
    signed: "需加签",
    keywords: "关键词：",
    clear: "清空",
    live: "实时",
    connection_lost: "连接已断开，正在重试…",
    empty_title: "还没有消息",
    empty_text: "发送第一条试试：",
    empty_more: "或者把沙箱启动时打印的两个环境变量交给 postbell，然后往 notification_events 插入一行。",
    must_be_signed: "此机器人启用了加签：上面的请求会被拒绝（310000），请用带密钥的 postbell 发送。",
    hello: "你好，postbell",
    copy: "复制",
    copied: "已复制",
    foot: "本地沙箱，消息不会发到真实的钉钉群",
    name: "postbell",
    tag: "机器人",
    everybody: "@所有人",
    chat_list: "会话列表显示：",
    duplicates: "已忽略重复",
    mismatched: "msgUuid 相同但内容不同",
    scripted: "脚本：",
    unseen: "没有到达机器人",
    lost: "已丢失",
    refused: "已拒绝",
};

const EN: Words = Words {
    code: "en",
    other_code: "zh",
    other_name: "中文",
    title: "Sandbox group",
    a_minute: " a minute",
    no_limit: "no rate limit",
    signed: "must be signed",
    keywords: "keywords: ",
    clear: "Clear",
    live: "live",
    connection_lost: "connection lost, trying again…",
    empty_title: "No messages yet",
    empty_text: "Send a first one:",
    empty_more: "Or give postbell the two variables that the sandbox printed at start, and insert a row into notification_events.",
    must_be_signed: "This robot wants signatures: it refuses the request above (310000). Send with postbell and the secret.",
    hello: "Hello from postbell",
    copy: "Copy",
    copied: "Copied",
    foot: "A local sandbox: nothing reaches a real DingTalk group",
    name: "postbell",
    tag: "Robot",
    everybody: "@All",
    chat_list: "in the chat list: ",
    duplicates: "duplicates swallowed",
    mismatched: "same msgUuid, different content",
    scripted: "script: ",
    unseen: "never reached the robot",
    lost: "lost",
    refused: "refused",
};
