// Saves a résumé and publishes resume.parsed in one transaction: both commit, or neither.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"

	_ "github.com/lib/pq"
)

func saveResume(ctx context.Context, db *sql.DB, candidate, position string) (eventID string, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer tx.Rollback() // after Commit it does nothing

	var resumeID int64
	err = tx.QueryRowContext(ctx,
		`insert into resumes (candidate, position) values ($1, $2) returning id`,
		candidate, position).Scan(&resumeID)
	if err != nil {
		return "", err
	}

	payload, err := json.Marshal(map[string]any{
		"candidate":  map[string]any{"name": candidate},
		"position":   position,
		"resume_url": fmt.Sprintf("https://hire.example.com/resumes/%d", resumeID),
	})
	if err != nil {
		return "", err
	}
	// The payload goes as a string: lib/pq sends []byte as bytea, which is not JSON.
	err = tx.QueryRowContext(ctx,
		`select notification_publish('resume.parsed', $1, idempotency_key => $2)`,
		string(payload), fmt.Sprintf("resume-%d", resumeID)).Scan(&eventID)
	if err != nil {
		return "", err
	}
	return eventID, tx.Commit()
}

func main() {
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	eventID, err := saveResume(context.Background(), db, "张三", "Go 后端工程师")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(eventID)
}
