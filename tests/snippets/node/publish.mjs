// Saves a résumé and publishes resume.parsed in one transaction: both commit, or neither.
import pg from "pg";

async function saveResume(client, candidate, position) {
  await client.query("begin");
  try {
    const resume = await client.query(
      "insert into resumes (candidate, position) values ($1, $2) returning id",
      [candidate, position],
    );
    const resumeId = resume.rows[0].id;
    const payload = {
      candidate: { name: candidate },
      position,
      resume_url: `https://hire.example.com/resumes/${resumeId}`,
    };
    const event = await client.query(
      "select notification_publish('resume.parsed', $1, idempotency_key => $2) as id",
      [payload, `resume-${resumeId}`],
    );
    await client.query("commit");
    return event.rows[0].id;
  } catch (error) {
    await client.query("rollback");
    throw error;
  }
}

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  console.log(await saveResume(client, "张三", "Go 后端工程师"));
} finally {
  await client.end();
}
