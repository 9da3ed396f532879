//! Deleting objects, one or many, and the tags of objects.

use crate::conditions;
use crate::errors::{from_engine, refuse};
use crate::metadata::{tag_set, tags_of_set};
use crate::ops::{Operations, show_version, version};
use crate::put::check_object_key;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tombolo_core::{DeleteOptions, Deleted, Tags, VersionId};

/// The most keys of one multi-delete.
const DELETE_KEYS_MAX: usize = 1000;

impl Operations {
    pub(crate) async fn delete(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        check_object_key(&input.key)?;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let options = DeleteOptions {
            version: version(input.version_id.as_deref())?,
            condition: conditions::of_delete(
                input.if_match.as_ref(),
                input.if_match_last_modified_time.as_ref(),
                input.if_match_size,
            )?,
        };
        let asked = options.version;
        let deleted = bucket.delete(&input.key, options).await.map_err(from_engine)?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: deleted.is_marker.then_some(true),
            version_id: shown_version(&deleted, asked),
            ..Default::default()
        }))
    }

    pub(crate) async fn delete_many(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        if input.delete.objects.is_empty() || input.delete.objects.len() > DELETE_KEYS_MAX {
            let message = "The XML you provided was not well-formed or did not validate against our published schema";
            return Err(refuse(S3ErrorCode::MalformedXML, message));
        }
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let quiet = input.delete.quiet.unwrap_or(false);
        let mut output =
            DeleteObjectsOutput { deleted: Some(Vec::new()), errors: Some(Vec::new()), ..Default::default() };
        let mut failed = |object: &ObjectIdentifier, error: S3Error| {
            if let Some(errors) = &mut output.errors {
                errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key.clone()),
                    message: Some(error.message().unwrap_or("").to_owned()),
                    version_id: object.version_id.clone(),
                });
            }
        };
        let (mut named, mut items) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            match options_of(&object) {
                Ok(options) => {
                    items.push((object.key.clone().into_bytes().into(), options));
                    named.push(object);
                }
                Err(error) => failed(&object, error),
            }
        }
        let answers = bucket.delete_many(items).await.map_err(from_engine)?;
        for (object, answer) in named.into_iter().zip(answers) {
            match answer {
                Ok(_) if quiet => {}
                Ok(deleted) => {
                    if let Some(list) = &mut output.deleted {
                        list.push(shown(object, &deleted));
                    }
                }
                Err(error) => {
                    let error = from_engine(error);
                    if let Some(errors) = &mut output.errors {
                        errors.push(Error {
                            code: Some(error.code().as_str().to_owned()),
                            key: Some(object.key),
                            message: Some(error.message().unwrap_or("").to_owned()),
                            version_id: object.version_id,
                        });
                    }
                }
            }
        }
        Ok(S3Response::new(output))
    }

    pub(crate) async fn tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let asked = version(req.input.version_id.as_deref())?;
        let info = self.look(&bucket, &req.input.key, asked).await?;
        Ok(S3Response::new(GetObjectTaggingOutput {
            tag_set: tag_set(&info.tags),
            version_id: show_version(info.version, asked.is_some()),
        }))
    }

    pub(crate) async fn put_tagging(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = req.input;
        let tags = tags_of_set(input.tagging.tag_set)?;
        let version_id =
            self.replace_tags(&req.extensions, &input.bucket, &input.key, input.version_id.as_deref(), tags).await?;
        Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
    }

    pub(crate) async fn delete_tagging(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = req.input;
        let version = input.version_id.as_deref();
        let version_id = self.replace_tags(&req.extensions, &input.bucket, &input.key, version, Tags::new()).await?;
        Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
    }

    async fn replace_tags(
        &self,
        extensions: &http::Extensions,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
        tags: Tags,
    ) -> S3Result<Option<String>> {
        let bucket = self.bucket(extensions, bucket).await?;
        let asked = version(version_id)?;
        // Tells a delete marker from a key that never was; the change itself is atomic below.
        self.look(&bucket, key, asked).await?;
        let info = bucket.set_tags(key, asked, tags).await.map_err(from_engine)?;
        Ok(show_version(info.version, asked.is_some()))
    }
}

fn options_of(object: &ObjectIdentifier) -> S3Result<DeleteOptions> {
    check_object_key(&object.key)?;
    let if_match = object.e_tag.clone().map(|tag| match tag.value() {
        "*" => ETagCondition::Any,
        _ => ETagCondition::ETag(tag),
    });
    Ok(DeleteOptions {
        // AWS takes an empty element for no version.
        version: version(object.version_id.as_deref().filter(|id| !id.is_empty()))?,
        condition: conditions::of_delete(if_match.as_ref(), object.last_modified_time.as_ref(), object.size)?,
    })
}

/// The version id of an answer: the one asked for, or the delete marker that was made.
fn shown_version(deleted: &Deleted, asked: Option<VersionId>) -> Option<String> {
    match asked {
        Some(version) => Some(version.to_string()),
        None if deleted.is_marker => deleted.version.map(|version| version.to_string()),
        None => None,
    }
}

fn shown(object: ObjectIdentifier, deleted: &Deleted) -> DeletedObject {
    let marker = deleted.version.filter(|_| deleted.is_marker);
    DeletedObject {
        delete_marker: deleted.is_marker.then_some(true),
        delete_marker_version_id: marker.map(|version| version.to_string()),
        key: Some(object.key),
        version_id: object.version_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::{EtagMatch, SegmentId};

    fn id(sequence: u64) -> VersionId {
        VersionId::Id { stamp: 1, segment: SegmentId([1; 16]), sequence }
    }

    #[test]
    fn items_carry_version_and_conditions() {
        let object = ObjectIdentifier {
            key: "k".into(),
            e_tag: Some(ETag::Strong("abc".into())),
            size: Some(3),
            version_id: Some(String::new()),
            ..Default::default()
        };
        let options = options_of(&object).unwrap();
        assert_eq!(options.version, None);
        assert_eq!(options.condition.if_match, Some(EtagMatch::OneOf(vec!["abc".into()])));
        assert_eq!(options.condition.if_size, Some(3));
        let bad = ObjectIdentifier { key: "k".into(), version_id: Some("x".into()), ..Default::default() };
        assert_eq!(options_of(&bad).unwrap_err().code(), &S3ErrorCode::InvalidArgument);
        let bad = ObjectIdentifier { key: "k".repeat(1025), ..Default::default() };
        assert_eq!(options_of(&bad).unwrap_err().code(), &S3ErrorCode::KeyTooLongError);
    }

    #[test]
    fn answers_name_the_marker_or_the_version() {
        let made = Deleted { existed: true, version: Some(id(1)), is_marker: true };
        assert_eq!(shown_version(&made, None), Some(id(1).to_string()));
        let gone = Deleted { existed: true, version: Some(VersionId::Null), is_marker: false };
        assert_eq!(shown_version(&gone, None), None);
        assert_eq!(shown_version(&gone, Some(VersionId::Null)).as_deref(), Some("null"));
        let object = ObjectIdentifier { key: "k".into(), ..Default::default() };
        let line = shown(object, &made);
        assert_eq!((line.delete_marker, line.delete_marker_version_id), (Some(true), Some(id(1).to_string())));
    }
}
