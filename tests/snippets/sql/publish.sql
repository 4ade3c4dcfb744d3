begin;

insert into resumes (candidate, position) values ('张三', 'Go 后端工程师');

insert into notification_events (event_type, payload)
values ('resume.parsed',
        '{"candidate": {"name": "张三"}, "position": "Go 后端工程师", "resume_url": "https://hire.example.com/resumes/42"}');

commit;
